output "configs" {
  description = "Each service's configuration file, YAML. `antipode config check --service <service> <file>` accepts it."
  value       = { for service, c in local.configs : service => yamlencode(c) }
}

output "instances" {
  description = "How many instances of each service to run."
  value       = local.instances
}

output "origin" {
  description = "The origin under which the region accepts."
  value       = var.regions[var.region].origin_epoch == 1 ? var.region : "${var.region}.${var.regions[var.region].origin_epoch}"
}

output "topics" {
  description = "Every topic that the region's Kafka holds: its own log and the copies of the others'."
  value = flatten([
    for o in local.origins : concat(
      [for lane in ["direct", "group", "super"] : "msg.${o}.${lane}"], ["read.${o}", "route.${o}"],
    )
  ])
}

# The specs of three regions, from one description. `terraform apply && terraform output -json` shows them.
variable "secrets_dir" {
  type    = string
  default = "/etc/antipode"
}

locals {
  regions = {
    eu = { replicator = "replicator.eu.chat.example:7401" }
    us = { replicator = "replicator.us.chat.example:7401" }
    ap = { replicator = "replicator.ap.chat.example:7401" }
  }
}

module "spec" {
  source   = "../.."
  for_each = local.regions

  region      = each.key
  regions     = local.regions
  load        = { sockets = 1500000, messages_per_second = 17500 }
  kafka       = { brokers = [for n in [1, 2, 3] : "kafka-${n}.${each.key}.chat.example:9092"] }
  postgres    = ["postgres://antipode@timelines.${each.key}.chat.example:5432/antipode"]
  redis       = ["redis.${each.key}.chat.example:6379"]
  auth_keys   = [{ id = "2026-11", key_file = "${var.secrets_dir}/auth-2026-11.pem" }]
  web_origins = ["https://chat.example"]
  domain      = "chat.example"
  secrets_dir = var.secrets_dir
}

output "configs" {
  value = { for name, spec in module.spec : name => spec.configs }
}

output "instances" {
  value = { for name, spec in module.spec : name => spec.instances }
}

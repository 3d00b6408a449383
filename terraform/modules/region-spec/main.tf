locals {
  services = ["ipconf", "gateway", "router", "imserver", "replicator"]

  origins = [
    for name in sort(keys(var.regions)) :
    var.regions[name].origin_epoch == 1 ? name : "${name}.${var.regions[name].origin_epoch}"
  ]
  peers = { for name, r in var.regions : name => r.replicator if name != var.region }

  # What is needed, divided by what the used part of one instance carries.
  used   = 1 - var.capacity.headroom
  pushes = var.load.messages_per_second * var.load.pushes_per_message
  need = {
    gateway = max(
      var.load.sockets / (var.capacity.gateway_sockets * local.used),
      local.pushes / (var.capacity.gateway_pushes_per_second * local.used),
    )
    router   = local.pushes / (var.capacity.router_pushes_per_second * local.used)
    imserver = var.load.messages_per_second / (var.capacity.imserver_messages_per_second * local.used)
  }

  # Two of everything at least: one may be restarted or lost at any time. More imservers or routers than partitions would
  # own nothing.
  instances = {
    ipconf     = 2
    gateway    = max(2, ceil(local.need.gateway))
    router     = min(var.partitions, max(2, ceil(local.need.router)))
    imserver   = min(var.partitions, max(2, ceil(local.need.imserver)))
    replicator = length(local.peers) == 0 ? 0 : 2
  }

  common = {
    region       = var.region
    origin_epoch = var.regions[var.region].origin_epoch
    origins      = local.origins
    partitions   = var.partitions
    rpc          = ":7401"
    admin        = ":7402"
    discovery    = { kind = "consul", address = "127.0.0.1:8500" }
    tls = {
      ca   = "${var.secrets_dir}/tls/ca.pem"
      cert = "${var.secrets_dir}/tls/cert.pem"
      key  = "${var.secrets_dir}/tls/key.pem"
    }
  }
  log = {
    log = {
      brokers     = var.kafka.brokers
      replication = var.kafka.replication
      min_in_sync = var.kafka.min_in_sync
      tls         = { enabled = var.kafka.tls }
    }
  }

  # What each service is told beside what all are.
  own = {
    ipconf = {
      listen     = ":7400"
      public_url = "https://ipconf.${var.region}.${var.domain}"
      ipconf     = { web_origins = var.web_origins }
    }
    gateway = {
      listen  = ":7400"
      auth    = { keys = var.auth_keys }
      gateway = { web_origins = var.web_origins, max_conns = var.capacity.gateway_sockets }
    }
    router = merge(local.log, {
      routes = { addrs = var.redis }
    })
    imserver = merge(local.log, {
      timelines = { urls = var.postgres, password_file = "${var.secrets_dir}/postgres-password" }
    })
    replicator = merge(local.log, {
      replicator = { peers = local.peers }
    })
  }
  configs = { for s in local.services : s => merge(local.common, local.own[s]) }
}

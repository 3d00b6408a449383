variable "region" {
  description = "Name of the region: a failure domain of its own. Lower-case letters, digits and hyphens."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]{1,32}$", var.region))
    error_message = "region: want 1 to 32 of a-z, 0-9 and -."
  }
}

variable "regions" {
  description = <<-EOT
    Every region of the cluster by name, this one included: its origin epoch (1, and one more each time the region starts
    over with an empty log), and host:port by which the others reach its replicators.
  EOT
  type = map(object({
    origin_epoch = optional(number, 1)
    replicator   = string
  }))

  validation {
    condition     = length(var.regions) >= 1 && length(var.regions) <= 64
    error_message = "regions: want 1 to 64 regions."
  }
  validation {
    condition     = alltrue([for name, _ in var.regions : can(regex("^[a-z0-9-]{1,32}$", name))])
    error_message = "regions: a name is 1 to 32 of a-z, 0-9 and -."
  }
  validation {
    condition     = alltrue([for _, r in var.regions : r.origin_epoch >= 1 && floor(r.origin_epoch) == r.origin_epoch])
    error_message = "regions: an origin_epoch is a whole number from 1."
  }
  validation {
    condition     = alltrue([for _, r in var.regions : can(regex("^[^:/ ]+:[0-9]{1,5}$", r.replicator))])
    error_message = "regions: replicator is host:port."
  }
  validation {
    condition     = contains(keys(var.regions), var.region)
    error_message = "regions: it must name this region too."
  }
}

variable "load" {
  description = <<-EOT
    What the region must carry at peak, its share of a lost region included: sockets, messages submitted per second in all
    regions together (every region applies all of them), and pushes per message.
  EOT
  type = object({
    sockets             = number
    messages_per_second = number
    pushes_per_message  = optional(number, 3)
  })

  validation {
    condition     = var.load.sockets > 0 && var.load.messages_per_second > 0 && var.load.pushes_per_message > 0
    error_message = "load: every figure must be more than 0."
  }
}

variable "capacity" {
  description = <<-EOT
    What one instance carries. The defaults are for 4 cores and 8 GiB and are kept beside the benchmarks they come from;
    headroom is the part of each instance that is left free, so that losing one does not overload the rest.
  EOT
  type = object({
    gateway_sockets              = optional(number, 50000)
    gateway_pushes_per_second    = optional(number, 60000)
    router_pushes_per_second     = optional(number, 100000)
    imserver_messages_per_second = optional(number, 5000)
    headroom                     = optional(number, 0.3)
  })
  default = {}

  validation {
    condition     = var.capacity.headroom >= 0 && var.capacity.headroom < 0.9
    error_message = "capacity: headroom is a part of 1, less than 0.9."
  }
  validation {
    condition = alltrue([
      var.capacity.gateway_sockets > 0, var.capacity.gateway_pushes_per_second > 0,
      var.capacity.router_pushes_per_second > 0, var.capacity.imserver_messages_per_second > 0,
    ])
    error_message = "capacity: what an instance carries must be more than 0."
  }
}

variable "partitions" {
  description = "Partitions of every topic. Equal in every region; it changes only with a new origin epoch of all regions."
  type        = number
  default     = 16

  validation {
    condition     = var.partitions >= 1 && var.partitions <= 32768 && floor(var.partitions) == var.partitions
    error_message = "partitions: want a whole number from 1 to 32768."
  }
}

variable "kafka" {
  description = "The region's Kafka: brokers as host:port, replicas of each topic, how many of them an append waits for."
  type = object({
    brokers     = list(string)
    replication = optional(number, 3)
    min_in_sync = optional(number, 2)
    tls         = optional(bool, true)
  })

  validation {
    condition     = length(var.kafka.brokers) > 0 && alltrue([for b in var.kafka.brokers : can(regex("^[^:/ ]+:[0-9]{1,5}$", b))])
    error_message = "kafka: brokers: want at least one host:port."
  }
  validation {
    condition     = var.kafka.min_in_sync >= 1 && var.kafka.min_in_sync <= var.kafka.replication
    error_message = "kafka: min_in_sync: want 1 to replication, or no append can be acknowledged."
  }
  validation {
    condition     = var.kafka.replication == 1 || var.kafka.min_in_sync < var.kafka.replication
    error_message = "kafka: min_in_sync: with as many as replication, one broker's restart stops the region."
  }
}

variable "postgres" {
  description = "Timeline databases as postgres://user@host:port/database, without a password. Partition p lives in the (p mod n)-th."
  type        = list(string)

  validation {
    condition     = length(var.postgres) >= 1
    error_message = "postgres: want at least one database."
  }
  validation {
    condition     = alltrue([for u in var.postgres : can(regex("^postgres(ql)?://[^:@/ ]+@[^/ ]+/[^/ ]+$", u))])
    error_message = "postgres: want postgres://user@host:port/database; the password comes from a file, never from here."
  }
}

variable "redis" {
  description = "Redis nodes as host:port; several are a cluster."
  type        = list(string)

  validation {
    condition     = length(var.redis) >= 1 && alltrue([for a in var.redis : can(regex("^[^:/ ]+:[0-9]{1,5}$", a))])
    error_message = "redis: want at least one host:port."
  }
}

variable "auth_keys" {
  description = "Keys that sign clients' tokens: id, algorithm (EdDSA or HS256) and the file on the instance that holds the key."
  type = list(object({
    id       = string
    alg      = optional(string, "EdDSA")
    key_file = string
  }))

  validation {
    condition     = length(var.auth_keys) >= 1 && length(distinct(var.auth_keys[*].id)) == length(var.auth_keys)
    error_message = "auth_keys: want at least one key, each with an id of its own."
  }
  validation {
    condition     = alltrue([for k in var.auth_keys : contains(["EdDSA", "HS256"], k.alg)])
    error_message = "auth_keys: alg is EdDSA or HS256."
  }
}

variable "web_origins" {
  description = "Web pages that may connect, such as https://chat.example."
  type        = list(string)
  default     = []
}

variable "domain" {
  description = "Domain under which clients reach the region: ipconf.<region>.<domain> and gateways below gw.<region>.<domain>."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9.-]+$", var.domain))
    error_message = "domain: want a DNS name."
  }
}

variable "secrets_dir" {
  description = "Folder on instances with tls/{ca,cert,key}.pem, postgres-password and the auth keys."
  type        = string
  default     = "/etc/antipode"
}

# terraform test: what the module computes, and what it refuses.

variables {
  region = "eu"
  regions = {
    eu = { replicator = "replicator.eu.example:7401" }
    us = { replicator = "replicator.us.example:7401", origin_epoch = 2 }
    ap = { replicator = "replicator.ap.example:7401" }
  }
  load      = { sockets = 1500000, messages_per_second = 17500 }
  kafka     = { brokers = ["b1.eu.example:9092", "b2.eu.example:9092", "b3.eu.example:9092"] }
  postgres  = ["postgres://antipode@timelines.eu.example:5432/antipode"]
  redis     = ["redis.eu.example:6379"]
  auth_keys = [{ id = "2026-11", key_file = "/etc/antipode/auth-2026-11.pem" }]
  domain    = "chat.example"
}

run "sizes_follow_the_load" {
  command = plan

  assert {
    condition     = output.instances.gateway == 43
    error_message = "1.5 M sockets at 35,000 used of 50,000 need 43 gateways, got ${output.instances.gateway}"
  }
  assert {
    condition     = output.instances.imserver == 5
    error_message = "17,500 messages/s at 3,500 used of 5,000 need 5 imservers, got ${output.instances.imserver}"
  }
  assert {
    condition     = alltrue([for s in ["ipconf", "router", "replicator"] : output.instances[s] >= 2])
    error_message = "one of everything is not enough"
  }
}

run "every_region_is_followed" {
  command = plan

  assert {
    condition     = yamldecode(output.configs.imserver).origins == ["ap", "eu", "us.2"]
    error_message = "origins must be sorted, and us is in its second epoch"
  }
  assert {
    condition     = yamldecode(output.configs.replicator).replicator.peers == { us = "replicator.us.example:7401", ap = "replicator.ap.example:7401" }
    error_message = "peers are the others"
  }
  assert {
    condition     = length(output.topics) == 15 && contains(output.topics, "msg.us.2.direct")
    error_message = "five topics for each origin"
  }
  assert {
    condition     = output.origin == "eu"
    error_message = "the first epoch has no number"
  }
}

run "secrets_are_files" {
  command = plan

  assert {
    condition     = yamldecode(output.configs.imserver).timelines.password_file == "/etc/antipode/postgres-password"
    error_message = "the password must come from a file"
  }
  assert {
    condition     = !can(yamldecode(output.configs.gateway).timelines)
    error_message = "a gateway is told nothing of databases"
  }
}

run "more_imservers_than_partitions_own_nothing" {
  command = plan
  variables {
    partitions = 4
  }
  assert {
    condition     = output.instances.imserver == 4
    error_message = "want as many as partitions, got ${output.instances.imserver}"
  }
}

run "refuses_a_region_that_is_not_listed" {
  command = plan
  variables {
    region = "sa"
  }
  expect_failures = [var.regions]
}

run "refuses_a_bad_name" {
  command = plan
  variables {
    region = "EU"
    regions = {
      EU = { replicator = "replicator.eu.example:7401" }
    }
  }
  expect_failures = [var.region]
}

run "refuses_acks_that_one_restart_stops" {
  command = plan
  variables {
    kafka = { brokers = ["b1.eu.example:9092"], replication = 3, min_in_sync = 3 }
  }
  expect_failures = [var.kafka]
}

run "refuses_a_password_in_a_url" {
  command = plan
  variables {
    postgres = ["postgres://antipode:secret@timelines.eu.example:5432/antipode"]
  }
  expect_failures = [var.postgres]
}

run "refuses_two_keys_of_one_id" {
  command = plan
  variables {
    auth_keys = [{ id = "a", key_file = "/a" }, { id = "a", key_file = "/b" }]
  }
  expect_failures = [var.auth_keys]
}

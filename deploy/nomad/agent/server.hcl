# What Greenroom needs of the three Nomad servers, beside what a site has anyway (addresses, TLS, gossip key).
# Nomad 2.0.3 or later.

server {
  enabled          = true
  bootstrap_expect = 3

  default_scheduler_config {
    # Runners may use more memory than they reserve, for as long as the node has some (memory_max).
    memory_oversubscription_enabled = true
    # Packs nodes, so that empty ones can go.
    scheduler_algorithm = "binpack"
  }
}

# Workload identities are of no use without.
acl {
  enabled = true
}

telemetry {
  prometheus_metrics         = true
  publish_allocation_metrics = true
}

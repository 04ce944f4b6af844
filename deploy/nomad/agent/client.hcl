# What Greenroom needs of a Nomad client, beside what a site has anyway (addresses, TLS).

client {
  enabled = true

  # Nomad takes the lesser of this and a task's kill_timeout, and says nothing. The default is 30 s: every call would be
  # cut by every deployment. It must be longer than call_kill_timeout of vars/prod.hcl.
  max_kill_timeout = "130m"

  # On nodes that run recorders or apis: one file system that they all mount (NFS, CephFS), owned by uid 10001.
  host_volume "recordings" {
    path      = "/srv/greenroom/recordings"
    read_only = false
  }
}

acl {
  enabled = true
}

plugin "docker" {
  config {
    allow_privileged = false

    volumes {
      # Jobs mount tmpfs and Nomad's own volumes, and no folder of the host.
      enabled = false
    }
  }
}

telemetry {
  prometheus_metrics         = true
  publish_allocation_metrics = true
}

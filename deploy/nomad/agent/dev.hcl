# One machine:  nomad agent -dev -config=deploy/nomad/agent/dev.hcl
# vars/dev.hcl goes with it.

client {
  # Without this it is 30 s, and NATS would be killed before its clients have gone.
  max_kill_timeout = "3m"

  # Made before the agent starts, and owned by uid 10001.
  host_volume "recordings" {
    path      = "/srv/greenroom/recordings"
    read_only = false
  }
}

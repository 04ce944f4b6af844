# The metrics of jobs/prometheus.nomad.hcl. A folder of the node's own disk, made by Nomad, that stays when the job
# goes.
#
#   nomad volume create deploy/nomad/volumes/prometheus.hcl

namespace = "voice"
name      = "prometheus"
type      = "host"
plugin_id = "mkdir"

capability {
  access_mode     = "single-node-single-writer"
  attachment_mode = "file-system"
}

# The user that the container runs as.
parameters {
  mode = "0700"
  uid  = "10001"
  gid  = "10001"
}

# The streams of one NATS server; one volume for each node that is to run one. A folder of the node's own disk, made
# by Nomad, that stays when the job goes. docs/runbooks/install.md makes all three.

namespace = "voice"
name      = "nats"
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

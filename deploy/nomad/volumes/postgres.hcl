# The database of jobs/postgres.nomad.hcl. A folder of the node's own disk, made by Nomad, that stays when the job
# goes: back it up (docs/runbooks/restore.md).
#
#   nomad volume create deploy/nomad/volumes/postgres.hcl

namespace = "voice"
name      = "postgres"
type      = "host"
plugin_id = "mkdir"

capability {
  access_mode     = "single-node-single-writer"
  attachment_mode = "file-system"
}

# The user that the container runs as.
parameters {
  mode = "0700"
  uid  = "999"
  gid  = "999"
}

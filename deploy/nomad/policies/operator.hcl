# A token for people: everything the runbooks do, within the namespace of Greenroom.
#
#   nomad acl policy apply voice-operator deploy/nomad/policies/operator.hcl
#   nomad acl token create -name "$USER" -policy voice-operator -ttl 12h

namespace "voice" {
  capabilities = [
    "list-jobs", "parse-job", "read-job", "submit-job", "read-job-scaling", "scale-job", "alloc-lifecycle",
    "read-logs", "read-fs", "alloc-exec", "host-volume-create", "host-volume-read", "host-volume-delete",
  ]

  variables {
    path "nomad/jobs" {
      capabilities = ["list", "read", "write"]
    }
    path "nomad/jobs/*" {
      capabilities = ["list", "read", "write", "destroy"]
    }
  }
}

# To drain nodes.
node {
  policy = "write"
}

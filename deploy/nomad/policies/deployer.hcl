# A token for the pipeline that brings out new versions: it submits jobs and follows their deployments. It reads no
# secrets, and doesn't get into containers.
#
#   nomad acl policy apply voice-deployer deploy/nomad/policies/deployer.hcl
#   nomad acl token create -name deployer -policy voice-deployer -ttl 8h

namespace "voice" {
  capabilities = ["list-jobs", "parse-job", "read-job", "submit-job", "read-logs", "host-volume-read"]
}

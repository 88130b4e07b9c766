//! Quotas of the account: which one an error speaks of, and where a higher one is asked for.

/// What to do about a quota that is used up; `code` is EC2's for the error.
///
/// Names and codes of quotas are those of the Service Quotas console (EC2, VPC and EBS user guides, "Quotas").
pub fn hint(code: &str, region: &str) -> Option<String> {
    let (quota, place, otherwise) = match code {
        "VcpuLimitExceeded" | "InstanceLimitExceeded" => (
            "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
            "ec2, L-1216C47A; other families have quotas of their own",
            "take a smaller --instance-type",
        ),
        "MaxSpotInstanceCountExceeded" => (
            "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
            "ec2, L-34B43A08; other families have quotas of their own",
            "leave --spot out",
        ),
        "VolumeLimitExceeded" => (
            "Storage for General Purpose SSD (gp3) volumes, in TiB",
            "ebs, L-7A658B76; other types have quotas of their own",
            "take a smaller --volume-size",
        ),
        "AddressLimitExceeded" => {
            ("EC2-VPC Elastic IPs", "ec2, L-0263D0A3", "give one back: ec2-ls --orphans lists ours that nothing has")
        }
        "SecurityGroupLimitExceeded" => (
            "VPC security groups per Region",
            "vpc, L-E79EC296",
            "delete some: ec2-ls --orphans lists ours that nobody uses",
        ),
        "RulesPerSecurityGroupLimitExceeded" => (
            "Inbound or outbound rules per security group",
            "vpc, L-0EA8095F",
            "open fewer ports: a range as in 8000-8100 counts once",
        ),
        "SecurityGroupsPerInterfaceLimitExceeded" | "SecurityGroupsPerInstanceLimitExceeded" => {
            ("Security groups per network interface", "vpc, L-2AFB9258", "name fewer with --security-group")
        }
        "NetworkInterfaceLimitExceeded" => {
            ("Network interfaces per Region", "vpc, L-DF5E4CA3", "remove machines that nobody needs")
        }
        "KeyPairLimitExceeded" => {
            let all = format!("the quota of key pairs in {region} is used up");
            return Some(format!(
                "{all}: delete some (ec2-ls --orphans lists ours that nobody uses), or give machines one key together"
            ));
        }
        "TagLimitExceeded" => return Some("nothing has more than 50 tags: leave some out".into()),
        code if code.ends_with("LimitExceeded") => {
            return Some(format!("ask for a higher quota of {region} in the Service Quotas console"));
        }
        _ => return None,
    };
    Some(format!(
        "the quota of {region} is \"{quota}\": ask for more in the Service Quotas console ({place}), or {otherwise}"
    ))
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_quota_is_named_with_its_place() {
        let text = hint("AddressLimitExceeded", "eu-west-1").unwrap();
        assert!(text.starts_with("the quota of eu-west-1 is \"EC2-VPC Elastic IPs\": ask for more"), "{text}");
        assert!(text.contains("(ec2, L-0263D0A3), or give one back"), "{text}");
        assert!(hint("NewLimitExceeded", "eu-west-1").unwrap().ends_with("in the Service Quotas console"));
        assert_eq!(hint("InvalidParameterValue", "eu-west-1"), None);
    }
}

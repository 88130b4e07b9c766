//! Where in the network a machine goes.

use crate::region::{Region, filter};
use crate::wish::Wish;
use aws_sdk_ec2::types::{Subnet, SubnetCidrBlockStateCode};
use machine_record::{Failure, Kind};
use std::rc::Rc;

/// The subnets to try in turn; none names the one that EC2 would choose.
///
/// # Errors
/// Kind `input` where the wish is for IPv6 and no subnet has it.
pub async fn first_choice(region: &Region, vpc: &str, wish: &Wish) -> Result<Vec<Option<String>>, Failure> {
    if !wish.ipv6 {
        return Ok(vec![wish.subnet.clone()]);
    }
    let known = match &wish.subnet {
        Some(id) => region.subnets("subnet-id", id).await?,
        None => region.subnets("vpc-id", vpc).await?,
    };
    let able: Vec<_> =
        known.iter().filter(|subnet| has_ipv6(subnet)).map(|s| s.subnet_id().map(String::from)).collect();
    if able.is_empty() {
        let what = match &wish.subnet {
            Some(id) => format!("the subnet {id} has no IPv6 block"),
            None => format!("no subnet of the default VPC in {} has an IPv6 block", region.name),
        };
        return Err(Failure::new(Kind::Input, what).hint("give it one, or name a --subnet that has one"));
    }
    Ok(able)
}

fn has_ipv6(subnet: &Subnet) -> bool {
    subnet.ipv6_cidr_block_association_set().iter().any(|block| {
        let state = block.ipv6_cidr_block_state().and_then(|state| state.state());
        state.is_none_or(|state| {
            matches!(state, SubnetCidrBlockStateCode::Associated | SubnetCidrBlockStateCode::Associating)
        })
    })
}

/// The subnets of the default VPC, of all zones: where one has no room another may.
pub async fn all(region: &Region, vpc: &str) -> Result<Vec<Option<String>>, Failure> {
    let known = region.subnets("vpc-id", vpc).await?;
    Ok(known.iter().filter_map(|subnet| subnet.subnet_id().map(|id| Some(id.to_string()))).collect())
}

impl Region {
    /// The subnets that fit a filter, in the order of their zones.
    async fn subnets(&self, by: &str, value: &str) -> Result<Rc<Vec<Subnet>>, Failure> {
        let ask = || async {
            let mut filters = vec![filter(by, [value.to_string()])];
            if by == "vpc-id" {
                filters.push(filter("default-for-az", ["true".to_string()]));
            }
            let found = self.aws.call("", "DescribeSubnets", value, |client| {
                let call = client.describe_subnets().set_filters(Some(filters.clone()));
                call.into_paginator().items().send().collect::<Result<Vec<_>, _>>()
            });
            let mut found = found.await.map_err(|error| error.failure("cannot look for subnets"))?;
            found.sort_by(|a, b| a.availability_zone().cmp(&b.availability_zone()));
            Ok(Rc::new(found))
        };
        self.subnets.of(format!("{by}={value}"), ask).await
    }

    /// The VPC of a subnet, or the default VPC.
    pub async fn vpc(&self, subnet: Option<&str>) -> Result<String, Failure> {
        if let Some(subnet) = subnet {
            let found = self.subnets("subnet-id", subnet).await?;
            return found.first().and_then(|found| found.vpc_id()).map(String::from).ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("no subnet {subnet} in {}", self.name))
                    .hint("name one of that region with --subnet: aws ec2 describe-subnets shows them")
            });
        }
        let ask = || async {
            let found = self.aws.call("", "DescribeVpcs", "is-default", |client| {
                let call = client.describe_vpcs().filters(filter("is-default", ["true".to_string()]));
                call.into_paginator().items().send().collect::<Result<Vec<_>, _>>()
            });
            let found = found.await.map_err(|error| error.failure("cannot look for the default VPC"))?;
            found.first().and_then(|vpc| vpc.vpc_id()).map(String::from).ok_or_else(|| {
                Failure::new(Kind::Input, format!("the account has no default VPC in {}", self.name))
                    .hint("name a subnet with --subnet")
            })
        };
        self.default_vpc.of((), ask).await
    }
}

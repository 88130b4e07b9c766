//! Rules of a security group, in a form that can be compared.

use aws_sdk_ec2::types::{IpPermission, IpRange, Ipv6Range, PrefixListId, UserIdGroupPair};
use ipnet::IpNet;
use machine_record::{Failure, Kind};
use std::collections::BTreeSet;
use std::fmt;

/// One protocol, one range of ports, one source (or, outwards, one destination).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `tcp`, `udp`, another one's number, or `-1` for all
    protocol: String,
    from: i32,
    to: i32,
    /// A CIDR block, `sg-…` or `pl-…`
    peer: String,
}

const ANYWHERE: &str = "0.0.0.0/0";

impl Rule {
    /// Reads `PORT[/udp][:CIDR]`, where a port may be a range such as `8000-8100`.
    pub fn parse(text: &str) -> Result<Rule, Failure> {
        let wrong = || {
            Failure::new(Kind::Input, format!("not a port to open: {text:?}"))
                .hint("write PORT[/udp][:CIDR], as in 443, 8000-8100, 53/udp or 5432:10.0.0.0/8")
        };
        let (ports, peer) = text.split_once(':').unwrap_or((text, ANYWHERE));
        let (ports, protocol) = ports.split_once('/').unwrap_or((ports, "tcp"));
        let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
        let (Some(from), Some(to)) = (number(from), number(to)) else { return Err(wrong()) };
        if !["tcp", "udp"].contains(&protocol) || from > to {
            return Err(wrong());
        }
        Ok(Rule { protocol: protocol.into(), from: from.into(), to: to.into(), peer: cidr(peer)? })
    }

    /// Lets ssh in from a CIDR block.
    pub fn ssh(from: &str) -> Result<Rule, Failure> {
        Ok(Rule { protocol: "tcp".into(), from: 22, to: 22, peer: cidr(from)? })
    }

    /// Lets everything out.
    pub fn everything() -> Rule {
        Rule { protocol: "-1".into(), from: -1, to: -1, peer: ANYWHERE.into() }
    }

    /// What EC2 adds by itself to a new group of a VPC with IPv6.
    pub fn everything_ipv6() -> Rule {
        Rule { peer: "::/0".into(), ..Rule::everything() }
    }

    /// Whether anybody on the internet may come in.
    pub fn is_open(&self) -> bool {
        self.peer == ANYWHERE || self.peer == "::/0"
    }

    pub fn is_ssh(&self) -> bool {
        (self.protocol.as_str(), self.from, self.to) == ("tcp", 22, 22)
    }

    /// Rules as a set, from EC2's form.
    pub fn of(permissions: &[IpPermission]) -> BTreeSet<Rule> {
        let mut rules = BTreeSet::new();
        for permission in permissions {
            let blocks = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip());
            let blocks6 = permission.ipv6_ranges().iter().filter_map(|range| range.cidr_ipv6());
            let groups = permission.user_id_group_pairs().iter().filter_map(|pair| pair.group_id());
            let lists = permission.prefix_list_ids().iter().filter_map(|list| list.prefix_list_id());
            for peer in blocks.chain(blocks6).chain(groups).chain(lists) {
                let protocol = permission.ip_protocol().unwrap_or("-1");
                // All protocols have no ports; EC2 leaves them out, moto writes 0.
                let port = |port: Option<i32>| if protocol == "-1" { -1 } else { port.unwrap_or(-1) };
                let (from, to) = (port(permission.from_port()), port(permission.to_port()));
                rules.insert(Rule { protocol: protocol.into(), from, to, peer: peer.into() });
            }
        }
        rules
    }

    /// The rule in EC2's form.
    pub fn permission(&self) -> IpPermission {
        let permission = IpPermission::builder().ip_protocol(&self.protocol);
        let permission = match self.protocol.as_str() {
            "-1" => permission,
            _ => permission.from_port(self.from).to_port(self.to),
        };
        let peer = &self.peer;
        match peer {
            peer if peer.starts_with("sg-") => {
                permission.user_id_group_pairs(UserIdGroupPair::builder().group_id(peer).build())
            }
            peer if peer.starts_with("pl-") => {
                permission.prefix_list_ids(PrefixListId::builder().prefix_list_id(peer).build())
            }
            peer if peer.contains(':') => permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(peer).build()),
            peer => permission.ip_ranges(IpRange::builder().cidr_ip(peer).build()),
        }
        .build()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.protocol.as_str(), self.from, self.to) {
            ("-1", ..) => write!(f, "everything")?,
            (protocol, from, to) if from == to => write!(f, "{from}/{protocol}")?,
            (protocol, from, to) => write!(f, "{from}-{to}/{protocol}")?,
        }
        write!(f, ":{}", self.peer)
    }
}

/// Reads a CIDR block, or a single address, as EC2 keeps it: with the bits of the host cleared.
fn cidr(text: &str) -> Result<String, Failure> {
    let block = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    block.map(|block| block.trunc().to_string()).map_err(|_| {
        Failure::new(Kind::Input, format!("not a CIDR block: {text:?}"))
            .hint("write it as in 203.0.113.0/24 or 2001:db8::/32")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_with_protocol_and_source() {
        for (text, shown) in [
            ("443", "443/tcp:0.0.0.0/0"),
            ("53/udp", "53/udp:0.0.0.0/0"),
            ("5432:10.0.0.1/8", "5432/tcp:10.0.0.0/8"),
            ("80:::/0", "80/tcp:::/0"),
            ("8000-8100", "8000-8100/tcp:0.0.0.0/0"),
            ("60000-61000/udp:10.0.0.0/8", "60000-61000/udp:10.0.0.0/8"),
            ("80/tcp:2001:db8::1", "80/tcp:2001:db8::1/128"),
        ] {
            assert_eq!(Rule::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "0", "65536", "http", "80/icmp", "80:", "80:10.0.0.0/33", "90-80", "80-", "-80", "+80", "0-1"]
        {
            assert!(Rule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_survives_the_way_through_ec2s_form() {
        for rule in [
            Rule::parse("53/udp:10.0.0.0/8").unwrap(),
            Rule::parse("80:::/0").unwrap(),
            Rule::everything(),
            Rule { protocol: "tcp".into(), from: 1, to: 2, peer: "sg-1".into() },
            Rule { protocol: "icmp".into(), from: -1, to: -1, peer: "pl-1".into() },
        ] {
            assert_eq!(Rule::of(&[rule.permission()]), BTreeSet::from([rule]));
        }
    }
}

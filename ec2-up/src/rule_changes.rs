//! What has to change about the rules of a machine's security group, both ways.

use crate::rules::Rule;
use crate::wish::Wish;
use aws_sdk_ec2::types::SecurityGroup;
use machine_record::Failure;
use std::collections::BTreeSet;

/// Rules to add and to take away.
#[derive(Debug, Default, PartialEq)]
pub struct RuleChanges {
    pub open: BTreeSet<Rule>,
    pub close: BTreeSet<Rule>,
    pub let_out: BTreeSet<Rule>,
    pub keep_in: BTreeSet<Rule>,
}

impl RuleChanges {
    /// Compares the wish with a group; what the wish does not speak of stays as it is.
    pub fn of(wish: &Wish, group: &SecurityGroup) -> Result<Self, Failure> {
        let have = Rule::of(group.ip_permissions());
        let (ssh, other): (BTreeSet<Rule>, BTreeSet<Rule>) = have.iter().cloned().partition(Rule::is_ssh);
        let default = wish.ingress()?.into_iter().filter(Rule::is_ssh).collect();
        // A group without any way in for ssh was left half-made.
        let mut want_ssh = if wish.ssh.is_empty() && !ssh.is_empty() { ssh } else { default };
        // Everybody is everybody, also for a machine that gets IPv6 later.
        if wish.ipv6 && wish.ssh.is_empty() && want_ssh.iter().any(Rule::is_open) {
            want_ssh.insert(Rule::ssh("::/0")?);
        }
        let want_other = wish.open.clone().unwrap_or(other);
        let want: BTreeSet<Rule> = want_ssh.union(&want_other).cloned().collect();
        let out = Rule::of(group.ip_permissions_egress());
        let mut want_out = BTreeSet::from([Rule::everything()]);
        if wish.ipv6 {
            want_out.insert(Rule::everything_ipv6());
        }
        let mut keep_in: BTreeSet<Rule> = out.difference(&want_out).cloned().collect();
        keep_in.remove(&Rule::everything_ipv6());
        Ok(RuleChanges {
            open: want.difference(&have).cloned().collect(),
            close: have.difference(&want).cloned().collect(),
            let_out: want_out.difference(&out).cloned().collect(),
            keep_in,
        })
    }

    pub fn is_empty(&self) -> bool {
        *self == RuleChanges::default()
    }

    /// The changes in words.
    pub fn words(&self) -> String {
        let of =
            |verb: &str, rules: &BTreeSet<Rule>| rules.iter().map(|rule| format!("{verb} {rule}")).collect::<Vec<_>>();
        let all = [of("open", &self.open), of("close", &self.close), of("allow out", &self.let_out)];
        [all.concat(), of("forbid out", &self.keep_in)].concat().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        wish: crate::wish::WishArgs,
    }

    fn words(flags: &[&str], ingress: &[&str]) -> String {
        let wish = Line::parse_from(std::iter::once(&"x").chain(flags)).wish;
        let wish = Wish::of(&machine_record::Record::default(), &wish).unwrap();
        let rules = ingress.iter().map(|rule| Rule::parse(rule).unwrap().permission()).collect();
        let group = SecurityGroup::builder()
            .set_ip_permissions(Some(rules))
            .ip_permissions_egress(Rule::everything().permission())
            .build();
        RuleChanges::of(&wish, &group).unwrap().words()
    }

    #[test]
    fn a_group_as_wished_is_left_alone() {
        assert_eq!(words(&[], &["22"]), "");
        assert_eq!(words(&["--open", "80"], &["22", "80"]), "");
    }

    #[test]
    fn what_no_flag_speaks_of_stays() {
        assert_eq!(words(&[], &["22:10.0.0.0/8", "443"]), "");
        assert_eq!(
            words(&["--open", "80"], &["22:10.0.0.0/8", "443"]),
            "open 80/tcp:0.0.0.0/0, close 443/tcp:0.0.0.0/0"
        );
        assert_eq!(
            words(&["--ssh-from", "10.0.0.0/8"], &["22", "443"]),
            "open 22/tcp:10.0.0.0/8, close 22/tcp:0.0.0.0/0"
        );
    }

    #[test]
    fn ipv6_goes_in_and_out() {
        assert_eq!(words(&["--ipv6"], &["22"]), "open 22/tcp:::/0, allow out everything:::/0");
        assert_eq!(words(&["--ipv6"], &["22:10.0.0.0/8"]), "allow out everything:::/0");
    }

    #[test]
    fn what_may_go_out_beyond_the_wish_no_longer_does() {
        let wish = Line::parse_from(["x"]).wish;
        let wish = Wish::of(&machine_record::Record::default(), &wish).unwrap();
        let group = SecurityGroup::builder()
            .ip_permissions(Rule::parse("22").unwrap().permission())
            .ip_permissions_egress(Rule::parse("443").unwrap().permission())
            .build();
        let words = RuleChanges::of(&wish, &group).unwrap().words();
        assert_eq!(words, "allow out everything:0.0.0.0/0, forbid out 443/tcp:0.0.0.0/0");
    }

    #[test]
    fn a_group_that_was_left_half_made_is_completed() {
        assert_eq!(words(&[], &[]), "open 22/tcp:0.0.0.0/0");
    }
}

//! What is wished for a machine: its record's `wish`, the flags, and what holds where neither speaks.

use crate::rules::Rule;
pub use crate::wish_args::{Credits, Imds, WishArgs};
use crate::{tags, user_data};
use clap::ValueEnum;
use machine_record::{Failure, Kind, Record, Wish as Member, log};
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What is wished for one machine. `None` and empty: not said.
#[derive(Clone, Debug)]
pub struct Wish {
    pub instance_type: Option<String>,
    pub volume_size: Option<u32>,
    pub volume_type: Option<String>,
    /// Rules for ssh, if `--ssh-from` is said
    pub ssh: BTreeSet<Rule>,
    /// Rules for other ports; `None` if `--open` is not said
    pub open: Option<BTreeSet<Rule>>,
    pub subnet: Option<String>,
    /// Groups of the user's choice; empty: one of its own
    pub security_groups: BTreeSet<String>,
    pub ipv6: bool,
    pub tags: BTreeMap<String, String>,
    pub spot: bool,
    pub imds: Option<Imds>,
    pub credits: Option<Credits>,
    pub instance_profile: Option<String>,
    pub elastic_ip: bool,
    /// The text, not the file
    pub user_data: Option<String>,
}

impl Wish {
    /// Puts together what record and flags say; the record wins, member by member.
    pub fn of(record: &Record, args: &WishArgs) -> Result<Wish, Failure> {
        let member: Member = record.section()?.unwrap_or_default();
        warn_of_unknown(record)?;
        for (name, list, hint) in [
            (
                "sshFrom",
                &member.ssh_from,
                "name who may reach ssh, as in [\"10.0.0.0/8\"], or leave it out for everybody",
            ),
            ("securityGroups", &member.security_groups, "name one, or leave it out for a group of the machine's own"),
        ] {
            // To read it as `not said` would open ssh to everybody.
            if list.as_ref().is_some_and(Vec::is_empty) {
                return Err(Failure::new(Kind::Input, format!("wish.{name} is an empty list")).hint(hint));
            }
        }
        let listed = |own: Option<Vec<String>>, flags: &Vec<String>| own.or((!flags.is_empty()).then(|| flags.clone()));
        let ssh = listed(member.ssh_from, &args.ssh_from).unwrap_or_default();
        let open = listed(member.open, &args.open);
        let tags = match member.tags {
            Some(tags) => tags,
            None => tags_of(&args.tag)?,
        };
        tags::check(&tags)?;
        let security_groups: BTreeSet<String> =
            listed(member.security_groups, &args.security_group).unwrap_or_default().into_iter().collect();
        if !security_groups.is_empty() && (!ssh.is_empty() || open.is_some()) {
            return Err(Failure::new(Kind::Input, "a security group of your choice keeps its own rules")
                .hint("leave --open and --ssh-from out, or --security-group"));
        }
        let instance_type = member.instance_type.or_else(|| args.instance_type.clone());
        let subnet = member.subnet.or_else(|| args.subnet.clone());
        let instance_profile = member.instance_profile.or_else(|| args.instance_profile.clone());
        not_empty("the instance type", instance_type.as_deref())?;
        not_empty("the subnet", subnet.as_deref())?;
        not_empty("the instance profile", instance_profile.as_deref())?;
        not_empty("a security group", security_groups.first().map(String::as_str))?;
        Ok(Wish {
            instance_type,
            volume_size: member.volume_size.or(args.volume_size),
            volume_type: member.volume_type.or_else(|| args.volume_type.clone()).map(volume_type).transpose()?,
            ssh: ssh.iter().map(|from| Rule::ssh(from)).collect::<Result<_, _>>()?,
            open: open.map(|ports| ports.iter().map(|port| Rule::parse(port)).collect()).transpose()?,
            subnet,
            security_groups,
            ipv6: member.ipv6.unwrap_or(args.ipv6),
            tags,
            spot: member.spot.unwrap_or(args.spot),
            imds: member.imds.map(|word| choice("imds", &word)).transpose()?.or(args.imds),
            credits: member.credits.map(|word| choice("credits", &word)).transpose()?.or(args.credits),
            instance_profile,
            elastic_ip: member.elastic_ip.unwrap_or(args.elastic_ip),
            user_data: member
                .user_data
                .map(PathBuf::from)
                .or_else(|| args.user_data.clone())
                .map(|file| user_data::read(&file))
                .transpose()?,
        })
    }

    /// The size of a new machine's volume: the tutorial's unless said.
    pub fn size(&self) -> u32 {
        self.volume_size.unwrap_or(50)
    }

    /// The type of a new machine's volume.
    pub fn volume(&self) -> &str {
        self.volume_type.as_deref().unwrap_or("gp3")
    }

    /// The type of a new machine.
    pub fn machine_type(&self, architecture: &str) -> &str {
        let default = if architecture == "arm64" { "t4g.micro" } else { "t3.micro" };
        self.instance_type.as_deref().unwrap_or(default)
    }

    /// What a new machine lets in.
    pub fn ingress(&self) -> Result<BTreeSet<Rule>, Failure> {
        let mut rules = self.ssh.clone();
        if rules.is_empty() {
            rules.insert(Rule::ssh("0.0.0.0/0")?);
            if self.ipv6 {
                rules.insert(Rule::ssh("::/0")?);
            }
        }
        rules.extend(self.open.iter().flatten().cloned());
        Ok(rules)
    }
}

/// A wish that is misspelled would come true as something else.
fn warn_of_unknown(record: &Record) -> Result<(), Failure> {
    let Some(members) = record.read::<BTreeMap<String, IgnoredAny>>("wish")? else { return Ok(()) };
    let known = serde_json::to_value(Member::default()).unwrap_or_default();
    let unknown: Vec<&str> = members.keys().map(String::as_str).filter(|name| known.get(name).is_none()).collect();
    if !unknown.is_empty() {
        log::warning(&record.name(), &format!("its wish has {}, which no tool knows", unknown.join(", ")));
    }
    Ok(())
}

/// Checks the type of a root volume.
fn volume_type(name: String) -> Result<String, Failure> {
    let hint = match name.as_str() {
        "gp2" | "gp3" | "standard" => return Ok(name),
        // EBS user guide, "Amazon EBS volume types".
        "io1" | "io2" => "it needs a number of IOPS, which ec2-up cannot give: take gp3",
        "st1" | "sc1" => "no machine boots from one: take gp3",
        _ => "there are gp3, gp2 and standard",
    };
    Err(Failure::new(Kind::Input, format!("not a type for a root volume: {name}")).hint(hint))
}

/// Reads a word of a record that is a choice of a flag.
fn choice<T: ValueEnum>(member: &str, word: &str) -> Result<T, Failure> {
    T::from_str(word, false).map_err(|_| {
        let words =
            T::value_variants().iter().filter_map(|value| Some(value.to_possible_value()?.get_name().to_string()));
        Failure::new(Kind::Input, format!("not a value for wish.{member}: {word}"))
            .hint(format!("there are {}", words.collect::<Vec<_>>().join(" and ")))
    })
}

/// Tags of flags, each key once.
fn tags_of(flags: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut tags = BTreeMap::new();
    for flag in flags {
        let (key, value) = pair(flag)?;
        if let Some(other) = tags.insert(key.clone(), value.clone()).filter(|other| *other != value) {
            return Err(Failure::new(Kind::Input, format!("the tag {key} is said twice: {other} and {value}"))
                .hint("say --tag once for each key"));
        }
    }
    Ok(tags)
}

/// A name that is empty is none: an unset variable of a script, most of the time.
fn not_empty(what: &str, name: Option<&str>) -> Result<(), Failure> {
    match name {
        Some("") => Err(Failure::new(Kind::Input, format!("{what} is empty")).hint("name one, or leave it out")),
        _ => Ok(()),
    }
}

fn pair(text: &str) -> Result<(String, String), Failure> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Failure::new(Kind::Input, format!("not a tag: {text:?}")).hint("write KEY=VALUE, as in team=web")
    })?;
    Ok((key.into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        wish: WishArgs,
    }

    fn wish(record: &str, flags: &[&str]) -> Result<Wish, Failure> {
        let record = machine_record::Records::new(record.as_bytes()).read().unwrap().unwrap();
        Wish::of(&record, &Line::parse_from(std::iter::once(&"x").chain(flags)).wish)
    }

    #[test]
    fn a_member_wins_over_a_flag_and_a_flag_over_the_default() {
        let flags = ["--instance-type", "m5.large", "--volume-size", "9", "--tag", "a=1,b=2", "--open", "80,443"];
        let wish = wish(r#"{"wish":{"instanceType":"t3.small","tags":{"c":"3"}}}"#, &flags).unwrap();
        assert_eq!(wish.machine_type("x86_64"), "t3.small");
        assert_eq!((wish.size(), wish.volume()), (9, "gp3"));
        assert_eq!(wish.tags.into_iter().collect::<Vec<_>>(), [("c".to_string(), "3".to_string())]);
        assert_eq!(wish.open.unwrap().len(), 2);
    }

    #[test]
    fn every_flag_has_a_member() {
        let member = r#"{"wish":{"securityGroups":["sg-1"],"ipv6":true,"elasticIp":true,"credits":"standard",
                                 "imds":"optional","instanceProfile":"web","volumeType":"gp2","spot":true}}"#;
        let wish = wish(member, &["--security-group", "sg-2", "--imds", "required"]).unwrap();
        assert_eq!(wish.security_groups, BTreeSet::from(["sg-1".to_string()]));
        assert_eq!((wish.imds, wish.credits), (Some(Imds::Optional), Some(Credits::Standard)));
        assert!(wish.ipv6 && wish.elastic_ip && wish.spot);
        assert_eq!((wish.instance_profile.as_deref(), wish.volume()), (Some("web"), "gp2"));
    }

    #[test]
    fn an_arm_machine_gets_an_arm_type() {
        assert_eq!(wish("{}", &[]).unwrap().machine_type("arm64"), "t4g.micro");
    }

    #[test]
    fn ssh_is_open_unless_narrowed() {
        let shown = |wish: Wish| wish.ingress().unwrap().iter().map(Rule::to_string).collect::<Vec<_>>();
        assert_eq!(shown(wish("{}", &[]).unwrap()), ["22/tcp:0.0.0.0/0"]);
        let narrow = wish("{}", &["--ssh-from", "10.1.2.3,fe80::/10", "--open", "80"]).unwrap();
        assert_eq!(shown(narrow), ["22/tcp:10.1.2.3/32", "22/tcp:fe80::/10", "80/tcp:0.0.0.0/0"]);
        assert_eq!(shown(wish("{}", &["--ipv6"]).unwrap()), ["22/tcp:0.0.0.0/0", "22/tcp:::/0"]);
    }

    #[test]
    fn wrong_wishes_are_refused() {
        for flags in [
            "--open http",
            "--ssh-from here",
            "--tag x",
            "--tag nixpipe:name=x",
            "--volume-type io2",
            "--volume-type gp9",
            "--tag a=b --tag a=c",
            "--instance-type=",
            "--subnet=",
            "--instance-profile=",
            "--security-group=",
            "--security-group sg-1 --open 80",
            "--security-group sg-1 --ssh-from 10.0.0.0/8",
        ] {
            let flags: Vec<&str> = flags.split(' ').collect();
            assert_eq!(wish("{}", &flags).unwrap_err().kind, Kind::Input, "{flags:?}");
        }
        let empty = wish("{}", &["--instance-profile="]).unwrap_err();
        assert_eq!(empty.message, "the instance profile is empty");
        let twice = wish("{}", &["--tag", "a=b", "--tag", "a=c"]).unwrap_err();
        assert_eq!(twice.message, "the tag a is said twice: b and c");
        assert_eq!(twice.hint.as_deref(), Some("say --tag once for each key"));
        for member in [
            r#"{"sshFrom":[]}"#,
            r#"{"securityGroups":[]}"#,
            r#"{"subnet":""}"#,
            r#"{"imds":"v2"}"#,
            r#"{"credits":"many"}"#,
            r#"{"volumeSize":"50"}"#,
            r#"{"tags":{"a":1}}"#,
        ] {
            assert_eq!(
                wish(&format!("{{\"wish\":{member}}}"), &["--ssh-from", "10.0.0.0/8"]).unwrap_err().kind,
                Kind::Input,
                "{member}"
            );
        }
    }
}

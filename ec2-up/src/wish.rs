//! What is wished for a machine: its record's `wish`, the flags, and what holds where neither speaks.

use crate::rules::Rule;
use crate::tags;
use clap::ValueEnum;
use machine_record::{Failure, Kind, Record, Wish as Member};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The flags of ec2-up that describe machines.
#[derive(clap::Args, Clone, Debug)]
pub struct WishArgs {
    /// Instance type; default is t3.micro, or t4g.micro for aarch64-linux
    #[arg(long, value_name = "TYPE")]
    instance_type: Option<String>,

    /// Size of the root volume in GiB; default is 50
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=65536))]
    volume_size: Option<u32>,

    /// Type of the root volume; default is gp3
    #[arg(long, value_name = "TYPE")]
    volume_type: Option<String>,

    /// Who may reach ssh (repeat, or commas); default is everybody
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    ssh_from: Vec<String>,

    /// Open a port, such as 443, 53/udp or 5432:10.0.0.0/8 (repeat, or commas)
    #[arg(long, value_name = "PORT[/udp][:CIDR]", value_delimiter = ',')]
    open: Vec<String>,

    /// Subnet to start in; default is one of the default VPC
    #[arg(long, value_name = "ID")]
    subnet: Option<String>,

    /// Add a tag to what is made (repeat, or commas)
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    tag: Vec<String>,

    /// Start spot instances: cheaper, and EC2 may take them back
    #[arg(long)]
    spot: bool,

    /// CPU credits of burstable types; unlimited ones can cost more
    #[arg(long, value_name = "CREDITS", value_enum)]
    credits: Option<Credits>,

    /// IAM instance profile that gives the machine permissions of its own
    #[arg(long, value_name = "NAME")]
    instance_profile: Option<String>,

    /// Give the machine an address that survives a stop
    #[arg(long)]
    elastic_ip: bool,

    /// Shell script (with #!) that the machine runs at every boot; readable by all on it
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,

    /// Whether metadata need a token; default is required, unless the image cannot
    #[arg(long, value_name = "WHEN", value_enum)]
    imds: Option<Imds>,
}

/// Whether the instance metadata service asks for a session token (IMDSv2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Imds {
    /// IMDSv2 only
    Required,
    /// IMDSv1 too, for images before 21.11 or so
    Optional,
}

/// What a burstable machine does when its CPU credits are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Credits {
    /// It becomes slower
    Standard,
    /// It stays fast, and costs more
    Unlimited,
}

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
        let listed = |own: Option<Vec<String>>, flags: &Vec<String>| own.or((!flags.is_empty()).then(|| flags.clone()));
        let ssh = listed(member.ssh_from, &args.ssh_from).unwrap_or_default();
        let open = listed(member.open, &args.open);
        let tags = match member.tags {
            Some(tags) => tags,
            None => args.tag.iter().map(|tag| pair(tag)).collect::<Result<_, _>>()?,
        };
        for (key, value) in &tags {
            tags::check(key, value)?;
        }
        Ok(Wish {
            instance_type: member.instance_type.or_else(|| args.instance_type.clone()),
            volume_size: member.volume_size.or(args.volume_size),
            volume_type: member.volume_type.or_else(|| args.volume_type.clone()),
            ssh: ssh.iter().map(|from| Rule::ssh(from)).collect::<Result<_, _>>()?,
            open: open.map(|ports| ports.iter().map(|port| Rule::parse(port)).collect()).transpose()?,
            subnet: member.subnet.or_else(|| args.subnet.clone()),
            tags,
            spot: member.spot.unwrap_or(args.spot),
            imds: args.imds,
            credits: args.credits,
            instance_profile: args.instance_profile.clone(),
            elastic_ip: args.elastic_ip,
            user_data: args.user_data.as_deref().map(user_data).transpose()?,
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
        }
        rules.extend(self.open.iter().flatten().cloned());
        Ok(rules)
    }
}

/// Reads user data: a script and nothing else.
///
/// A Nix expression would be built by the machine itself at every boot (nixpkgs,
/// `nixos/modules/virtualisation/amazon-init.nix`), which would undo what was pushed.
fn user_data(file: &Path) -> Result<String, Failure> {
    let wrong =
        |what: String| Failure::new(Kind::Input, format!("cannot use the user data {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    if !text.starts_with("#!") {
        return Err(wrong("it is not a script that begins with #!".into())
            .hint("a NixOS configuration there would undo every push at the next boot: give it to nix-push"));
    }
    if text.len() > 16384 {
        return Err(wrong("it has more than 16384 bytes".into()));
    }
    Ok(text)
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
    fn an_arm_machine_gets_an_arm_type() {
        assert_eq!(wish("{}", &[]).unwrap().machine_type("arm64"), "t4g.micro");
    }

    #[test]
    fn ssh_is_open_unless_narrowed() {
        let shown = |wish: Wish| wish.ingress().unwrap().iter().map(Rule::to_string).collect::<Vec<_>>();
        assert_eq!(shown(wish("{}", &[]).unwrap()), ["22/tcp:0.0.0.0/0"]);
        let narrow = wish("{}", &["--ssh-from", "10.1.2.3,fe80::/10", "--open", "80"]).unwrap();
        assert_eq!(shown(narrow), ["22/tcp:10.1.2.3/32", "22/tcp:fe80::/10", "80/tcp:0.0.0.0/0"]);
    }

    #[test]
    fn wrong_wishes_are_refused() {
        for flags in [["--open", "http"], ["--ssh-from", "here"], ["--tag", "x"], ["--tag", "nixpipe:name=x"]] {
            assert_eq!(wish("{}", &flags).unwrap_err().kind, Kind::Input, "{flags:?}");
        }
    }
}

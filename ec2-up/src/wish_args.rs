//! The flags of ec2-up that describe machines.

use clap::ValueEnum;
use std::path::PathBuf;

/// What the flags say for the whole stream; see `Wish` for what it comes to.
#[derive(clap::Args, Clone, Debug)]
pub struct WishArgs {
    /// Instance type; default is t3.micro, or t4g.micro for aarch64-linux
    #[arg(long, value_name = "TYPE")]
    pub instance_type: Option<String>,

    /// Size of the root volume in GiB; default is 50
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub volume_size: Option<u32>,

    /// Type of the root volume; default is gp3
    #[arg(long, value_name = "TYPE", hide_short_help = true)]
    pub volume_type: Option<String>,

    /// Who may reach ssh; default is everybody (repeatable)
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub ssh_from: Vec<String>,

    /// Open a port, such as 443, 8000-8100, 53/udp or 5432:10.0.0.0/8 (repeat, or commas)
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub open: Vec<String>,

    /// Subnet to start in; default is one of the default VPC
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub subnet: Option<String>,

    /// Use this security group as it is instead of making one (repeat, or commas)
    #[arg(long, value_name = "ID", value_delimiter = ',', hide_short_help = true)]
    pub security_group: Vec<String>,

    /// Give the machine an IPv6 address, and open ssh to IPv6
    #[arg(long, hide_short_help = true)]
    pub ipv6: bool,

    /// Add a tag to what is made (repeat, or commas)
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', hide_short_help = true)]
    pub tag: Vec<String>,

    /// Start spot instances, which EC2 may take back
    #[arg(long)]
    pub spot: bool,

    /// CPU credits of burstable types; unlimited ones can cost more
    #[arg(long, value_name = "CREDITS", value_enum, hide_short_help = true)]
    pub credits: Option<Credits>,

    /// IAM instance profile that gives the machine permissions of its own
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub instance_profile: Option<String>,

    /// Give the machine an address that survives a stop
    #[arg(long, hide_short_help = true)]
    pub elastic_ip: bool,

    /// Shell script (with #!) that the machine runs at every boot; readable by all on it
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub user_data: Option<PathBuf>,

    /// Whether metadata need a token; default is required, unless the image cannot
    #[arg(long, value_name = "WHEN", value_enum, hide_short_help = true)]
    pub imds: Option<Imds>,
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

impl Credits {
    /// EC2's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Credits::Standard => "standard",
            Credits::Unlimited => "unlimited",
        }
    }
}

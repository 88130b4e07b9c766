//! The flags that the three tools share.

use machine_record::{Failure, Kind, Record, aws_profile, duration};
use std::time::Duration;

/// Which account, region and deployment, and how long to wait.
#[derive(clap::Args, Clone, Debug)]
pub struct AccountArgs {
    /// EC2 region; else AWS_REGION, AWS_DEFAULT_REGION or the profile's
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,

    /// Keep machines of the same name apart, as a Terraform workspace does
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = deployment)]
    pub deployment: String,

    /// Longest wait for one machine
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, hide_short_help = true)]
    pub timeout: Duration,

    /// Longest wait for one answer of EC2
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, hide_short_help = true)]
    pub call_timeout: Duration,
}

impl AccountArgs {
    /// The region of a machine: its record's, the flag's, the environment's, the profile's.
    pub(crate) async fn region_of(&self, record: &Record) -> Result<String, Failure> {
        #[derive(serde::Deserialize)]
        struct Regional {
            region: Option<String>,
        }
        let of_ami = record.read::<Regional>("ami")?.and_then(|ami| ami.region);
        let named = record.string("region")?;
        if let (Some(named), Some(of_ami)) = (&named, &of_ami)
            && named != of_ami
        {
            return Err(Failure::new(
                Kind::Input,
                format!("the machine is to be in {named}, its image is one of {of_ami}"),
            )
            .hint(format!("run nixos-ami for {named}")));
        }
        match named.or(of_ami) {
            Some(region) => check_region(region),
            None => self.default_region().await,
        }
    }

    /// The region where no record names one.
    pub(crate) async fn default_region(&self) -> Result<String, Failure> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = self.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = match named {
            Some(region) => Some(region),
            None => {
                use aws_config::meta::region::ProvideRegion;
                let mut profile = aws_config::profile::ProfileFileRegionProvider::builder();
                if let Some((_, name)) = aws_profile() {
                    profile = profile.profile_name(name);
                }
                profile.build().region().await.map(|region| region.to_string())
            }
        };
        match region {
            Some(region) => check_region(region),
            None => Err(Failure::new(Kind::Input, "no region").hint("name one with --region, or set AWS_REGION")),
        }
    }
}

/// A region becomes part of a host name.
fn check_region(region: String) -> Result<String, Failure> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !region.is_empty() && region.bytes().all(good) {
        return Ok(region);
    }
    Err(Failure::new(Kind::Input, format!("not the name of a region: {region:?}"))
        .hint("regions are called as in eu-central-1"))
}

/// A deployment's name becomes part of a security group's name, which ends at 255 characters.
fn deployment(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        Ok(text.into())
    } else {
        Err("a deployment's name has up to 64 letters, digits, dots, hyphens and underscores".into())
    }
}

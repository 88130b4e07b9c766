//! Images that EC2 itself knows: one DescribeImages for all machines of a region and release.

use crate::catalogue::kind;
use crate::images::{Image, LATEST, Question, explain, nearest, parse_name};
use crate::table;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::SharedHttpClient;
use aws_sdk_ec2::config::interceptors::InterceptorContext;
use aws_sdk_ec2::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{Filter, Image as Ec2Image};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use machine_record::{
    Ami, Failure, Kind, UNTRUSTED, aws_profile, innermost, is_unknown_host, is_untrusted, log, no_credentials,
};
use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};

/// The accounts that publish NixOS images: today's (github.com/NixOS/amis) and the one until 23.05
/// (NixOS/nixpkgs issue 285881).
pub const OWNERS: [&str; 2] = ["427812963091", "080433136561"];

type Answer = Result<Arc<Vec<Image>>, Failure>;

/// Asks EC2, each question once however many machines have it.
pub struct Ec2 {
    owners: Vec<String>,
    timeout: Duration,
    calls: Semaphore,
    clients: Once<String, Client>,
    published: Once<(String, String), Answer>,
    living: Once<(String, String), Result<Option<Ami>, Failure>>,
}

impl Ec2 {
    pub fn new(owners: Vec<String>, timeout: Duration, calls: usize) -> Self {
        let (clients, published, living) = (Once::default(), Once::default(), Once::default());
        Ec2 { owners, timeout, calls: Semaphore::new(calls), clients, published, living }
    }

    /// The images of a release in a region, of all systems and types; of all releases for `latest`.
    pub async fn images(&self, region: &str, release: &str) -> Answer {
        let key = (region.to_string(), release.to_string());
        self.published.of(key, || async { self.ask(region, release).await.map(Arc::new) }).await
    }

    /// What EC2 knows of an image by its id; `None` if it is gone.
    pub async fn living(&self, ami: &Ami) -> Result<Option<Ami>, Failure> {
        let key = (ami.region.clone(), ami.id.clone());
        let ask = || async {
            // By a filter: an unknown id among the parameters would be an error instead of an empty answer.
            let filters = vec![filter("image-id", [ami.id.clone()]), filter("state", ["available".into()])];
            let images = self.describe(&ami.region, filters, &[]).await?;
            Ok(images.into_iter().next().map(|image| describe(image, ami.release.clone(), ami.system.clone(), ami)))
        };
        self.living.of(key, ask).await
    }

    /// Says why EC2 has no image for the question, from what it has.
    pub async fn explain(&self, question: &Question) -> Failure {
        match self.images(&question.region, LATEST).await {
            Ok(images) if images.is_empty() => self.unknown_region(&question.region).unwrap_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    format!("no NixOS image in {} of {}", question.region, self.owners.join(", ")),
                )
                .hint("is --owner right? Without it NixOS's own images are found")
            }),
            Ok(images) => explain(&images, question, "EC2"),
            Err(failure) => failure,
        }
    }

    /// A region that the table has never heard of is more likely misspelled than new.
    fn unknown_region(&self, region: &str) -> Option<Failure> {
        let images = table::all().ok()?;
        let known: BTreeSet<&str> = images.iter().map(|image| image.ami.region.as_str()).collect();
        let message = format!("no image in the region {region}, which is none that is known");
        (!known.contains(region)).then(|| {
            Failure::new(Kind::NotFound, format!("{message}: there are {}", nearest(known, region).join(", ")))
                .hint("is the name of the region right?")
        })
    }

    async fn ask(&self, region: &str, release: &str) -> Result<Vec<Image>, Failure> {
        let names = match release {
            LATEST => vec!["nixos/*".to_string(), "NixOS-*".to_string()],
            release => vec![format!("nixos/{release}.*"), format!("NixOS-{release}.*")],
        };
        let filters = vec![filter("name", names), filter("state", ["available".into()])];
        // Never without owners: strangers publish look-alikes (NixOS/nixpkgs issue 112354).
        let found = self.describe(region, filters, &self.owners).await?;
        let asked = Ami {
            id: String::new(),
            name: None,
            release: String::new(),
            region: region.into(),
            system: String::new(),
            kind: String::new(),
            creation_date: None,
            deprecation_time: None,
            source: "ec2".into(),
            boot_mode: None,
        };
        let image = |image: Ec2Image| {
            let (found, system) = parse_name(image.name()?)?;
            let (found, system) = (found.to_string(), system.to_string());
            let wanted = release == LATEST || found == release;
            wanted.then(|| Image { ami: describe(image, found, system, &asked), superseded: false })
        };
        Ok(found.into_iter().filter_map(image).collect())
    }

    async fn describe(&self, region: &str, filters: Vec<Filter>, owners: &[String]) -> Result<Vec<Ec2Image>, Failure> {
        let client = self.client(region).await;
        let _turn = self.calls.acquire().await;
        let shown: Vec<String> =
            filters.iter().map(|f| format!("{}={}", f.name().unwrap_or_default(), f.values().join(","))).collect();
        log::detail("", &format!("DescribeImages {region} {} {}", shown.join(" "), owners.join(",")));
        // Deprecated ones too: some releases have no other image, and `--verify` asks for old ids.
        let call = client.describe_images().include_deprecated(true).set_filters(Some(filters));
        let call = if owners.is_empty() { call } else { call.set_owners(Some(owners.to_vec())) };
        let pages = call.into_paginator().page_size(1000).items().send();
        pages.collect::<Result<Vec<_>, _>>().await.map_err(|error| {
            let failure = failure(region, &error);
            // A misspelled region is an address that does not resolve; servers that are not AWS's have their own ways.
            let unknown = is_unknown_host(&failure.message) || failure.kind == Kind::Internal;
            unknown.then(|| self.unknown_region(region)).flatten().unwrap_or(failure)
        })
    }

    async fn client(&self, region: &str) -> Client {
        let make = || async {
            // The SDK itself waits for ever on a server that accepts and never answers.
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5).min(self.timeout))
                .operation_attempt_timeout(Duration::from_secs(30).min(self.timeout))
                .operation_timeout(self.timeout)
                .build();
            let settings = aws_config::defaults(BehaviorVersion::latest())
                .region(Region::new(region.to_string()))
                .retry_config(RetryConfig::standard().with_max_attempts(8).with_max_backoff(Duration::from_secs(20)))
                .timeout_config(timeouts)
                .http_client(https());
            let settings = match aws_profile() {
                Some((_, profile)) => settings.profile_name(profile),
                None => settings,
            };
            let config = settings.load().await;
            let config = aws_sdk_ec2::config::Builder::from(&config).retry_classifier(Hopeless);
            Client::from_conf(config.build())
        };
        self.clients.of(region.to_string(), make).await
    }
}

/// HTTPS as the SDK makes it by itself, with the environment's proxies, but ring for its cryptography.
fn https() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let ring = Provider::Rustls(CryptoMode::Ring);
        let mut connector = Connector::builder().tls_provider(ring).proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.build()
    })
}

/// Says that another try cannot mend a name that does not exist, or a certificate that is not trusted.
#[derive(Debug)]
struct Hopeless;

impl ClassifyRetry for Hopeless {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err).and_then(|error| error.as_connector_error());
        match error.map(|error| innermost(error)) {
            Some(cause) if is_unknown_host(&cause) || is_untrusted(&cause) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "hopeless"
    }
}

/// The region of the AWS profile in use, if it names one.
pub async fn profile_region() -> Option<String> {
    use aws_config::meta::region::ProvideRegion;
    let mut profile = aws_config::profile::ProfileFileRegionProvider::builder();
    if let Some((_, name)) = aws_profile() {
        profile = profile.profile_name(name);
    }
    profile.build().region().await.map(|region| region.to_string())
}

fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

fn describe(image: Ec2Image, release: String, system: String, asked: &Ami) -> Ami {
    let virtualization = image.virtualization_type.as_ref().map(|kind| kind.as_str());
    let root_device = image.root_device_type.as_ref().map(|kind| kind.as_str());
    Ami {
        kind: kind(virtualization, root_device),
        id: image.image_id.unwrap_or_default(),
        name: image.name,
        release,
        system,
        region: asked.region.clone(),
        creation_date: image.creation_date,
        deprecation_time: image.deprecation_time,
        source: asked.source.clone(),
        boot_mode: image.boot_mode.map(|mode| mode.as_str().to_string()),
    }
}

/// Turns an error of the SDK into one for people: `code: message`, or the innermost cause.
fn failure<E: ProvideErrorMetadata + Error + 'static>(region: &str, error: &SdkError<E>) -> Failure {
    let what = format!("cannot list images in {region}");
    if let Some(code) = error.code() {
        let message = format!("{what}: {code}: {}", error.message().unwrap_or("no message"));
        return match code {
            "UnauthorizedOperation" => {
                Failure::new(Kind::Denied, message).hint("allow the IAM action ec2:DescribeImages")
            }
            "OptInRequired" => Failure::new(Kind::Denied, message).hint("enable the region for the account"),
            // EC2 says so of a region that is not enabled, too.
            "AuthFailure" => Failure::new(Kind::Denied, message)
                .hint(format!("check the AWS credentials and the clock; is {region} enabled for the account?")),
            "InvalidClientTokenId" | "SignatureDoesNotMatch" | "ExpiredToken" | "RequestExpired" => {
                Failure::new(Kind::Denied, message).hint("check the AWS credentials and the clock")
            }
            "RequestLimitExceeded" | "Throttling" | "ThrottlingException" => {
                Failure::new(Kind::Limit, message).hint("EC2 was asked too much at once: run it again")
            }
            _ => Failure::new(Kind::Internal, message).hint("EC2 says why; -v shows the call"),
        };
    }
    // What was tried for credentials fills a screen.
    let message = format!("{what}: {}", innermost(error));
    match error {
        SdkError::TimeoutError(_) => Failure::new(Kind::Timeout, format!("{what}: no answer from EC2 in time"))
            .hint("wait longer with --timeout"),
        _ if is_untrusted(&message) => Failure::new(Kind::Unreachable, message).hint(UNTRUSTED),
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            Failure::new(Kind::Unreachable, message)
                .hint(format!("run it again; if it stays so: is {region} a region of EC2?"))
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            Failure::new(Kind::Denied, message).hint(no_credentials())
        }
        _ => Failure::new(Kind::Unreachable, message).hint("run it again"),
    }
}

/// Answers that are found once, however many ask for them at the same time.
struct Once<K, V>(Mutex<HashMap<K, Arc<OnceCell<V>>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Once(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Once<K, V> {
    async fn of<F: Future<Output = V>>(&self, key: K, find: impl FnOnce() -> F) -> V {
        let cell = match self.0.lock() {
            Ok(mut cells) => cells.entry(key).or_default().clone(),
            // Another thread would have to panic between two lines above.
            Err(_) => return find().await,
        };
        cell.get_or_init(find).await.clone()
    }
}

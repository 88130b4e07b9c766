//! Calls to EC2: a time limit for each, and again what may be tried again.

use crate::call_error::CallError;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::SharedHttpClient;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use machine_record::{aws_profile, log};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How often a call is made that gets no answer, or one that says nothing.
///
/// Throttled calls are not counted: they end with the machine's own time limit.
const ATTEMPTS: u32 = 6;

/// Calls in flight at a time, of each of the two kinds. EC2's buckets refill at about 2 a second
/// for what changes something (EC2 developer guide, "Request throttling").
const IN_FLIGHT: usize = 16;

const FIRST_PAUSE: Duration = Duration::from_millis(400);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// EC2 in one region.
pub struct Aws {
    client: Client,
    region: Rc<str>,
    reads: Semaphore,
    writes: Semaphore,
    /// Of each action whose last call came to nothing and is to be made again, why
    refused: RefCell<BTreeMap<&'static str, CallError>>,
}

impl Aws {
    pub async fn new(region: &str, call_timeout: Duration) -> Self {
        // The SDK itself waits for ever on a server that accepts and never answers.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5).min(call_timeout))
            .operation_attempt_timeout(call_timeout)
            .operation_timeout(call_timeout)
            .build();
        // Tried again here, not in the SDK: its budget for retries is one for all calls, and a
        // thousand throttled machines would use it up.
        let settings = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_string()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .http_client(https());
        let settings = match aws_profile() {
            Some((_, profile)) => settings.profile_name(profile),
            None => settings,
        };
        let config = settings.load().await;
        let (reads, writes) = (Semaphore::new(IN_FLIGHT), Semaphore::new(IN_FLIGHT));
        Aws { client: Client::new(&config), region: region.into(), reads, writes, refused: RefCell::default() }
    }

    /// Why a call has to be made again, if one has.
    pub fn refused(&self) -> Option<CallError> {
        self.refused.borrow().values().next().cloned()
    }

    /// Makes a call until EC2 has answered it; see [`Aws::call_once`] for those that must not be repeated.
    ///
    /// Every call of these tools may be made twice: it reads, or EC2 refuses the second one with a
    /// code that the caller knows (`Duplicate`, `NotFound`), or it carries a client token.
    pub async fn call<T, E, F>(
        &self,
        machine: &str,
        action: &'static str,
        what: &str,
        send: impl Fn(&Client) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        self.attempt(machine, action, what, ATTEMPTS, send).await
    }

    /// Makes a call that EC2 would do twice: without an answer it is for the caller to look what came of it.
    pub async fn call_once<T, E, F>(
        &self,
        machine: &str,
        action: &'static str,
        what: &str,
        send: impl Fn(&Client) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        self.attempt(machine, action, what, 1, send).await
    }

    async fn attempt<T, E, F>(
        &self,
        machine: &str,
        action: &'static str,
        what: &str,
        most: u32,
        send: impl Fn(&Client) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let reads = action.starts_with("Describe") || action.starts_with("Get");
        let _turn = if reads { &self.reads } else { &self.writes }.acquire().await;
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            log::detail(machine, &format!("{action} {what}"));
            let error = match send(&self.client).await {
                Ok(answer) => {
                    self.refused.borrow_mut().remove(action);
                    return Ok(answer);
                }
                Err(error) => CallError::new(action, &self.region, &error),
            };
            let throttled = error.is_throttled();
            attempts += u32::from(!throttled);
            if !(throttled || error.is_transient()) || attempts == most {
                // Who waits for its users to go makes the call again.
                if error.is_in_use() {
                    self.refused.borrow_mut().insert(action, error.clone());
                }
                return Err(error);
            }
            // Not all at the same moment.
            let wait = pause.mul_f64(0.5 + fraction() / 2.0);
            log::detail(machine, &format!("{error}; again in {} ms", wait.as_millis()));
            self.refused.borrow_mut().insert(action, error);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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

/// A number from 0 to 1 that differs from call to call; it only spreads the retries.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0) >> 32;
    bits as f64 / f64::from(u32::MAX)
}

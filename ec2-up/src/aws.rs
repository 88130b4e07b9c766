//! Calls to EC2: a time limit for each, again what may be tried again, and errors for people.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use machine_record::{Failure, Kind, log};
use std::error::Error;
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
    reads: Semaphore,
    writes: Semaphore,
}

/// A call that failed for good.
#[derive(Clone, Debug)]
pub struct CallError {
    action: &'static str,
    code: Option<String>,
    message: String,
    kind: Kind,
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
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_string()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .load()
            .await;
        let (reads, writes) = (Semaphore::new(IN_FLIGHT), Semaphore::new(IN_FLIGHT));
        Aws { client: Client::new(&config), reads, writes }
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
                Ok(answer) => return Ok(answer),
                Err(error) => CallError::new(action, &error),
            };
            let throttled = error.is_throttled();
            attempts += u32::from(!throttled);
            if !(throttled || error.is_transient()) || attempts == most {
                return Err(error);
            }
            // Not all at the same moment.
            let wait = pause.mul_f64(0.5 + fraction() / 2.0);
            log::detail(machine, &format!("{error}; again in {} ms", wait.as_millis()));
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl CallError {
    /// An answer without what was asked for.
    pub fn empty(action: &'static str) -> Self {
        CallError { action, code: None, message: "an empty answer".into(), kind: Kind::Internal }
    }

    fn new<E: ProvideErrorMetadata + Error + 'static>(action: &'static str, error: &SdkError<E>) -> Self {
        if let Some(code) = error.code() {
            let message = error.message().unwrap_or("no message").trim_end_matches('.').to_string();
            return CallError { action, code: Some(code.into()), message, kind: kind(code) };
        }
        let mut cause: &dyn Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let message = cause.to_string();
        let (kind, message) = match error {
            SdkError::TimeoutError(_) => (Kind::Timeout, "no answer in time".to_string()),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => (Kind::Timeout, message),
            SdkError::DispatchFailure(failure) if !failure.is_io() => (Kind::Denied, message),
            SdkError::ConstructionFailure(_) => (Kind::Internal, message),
            // Cut off, or an answer that is none.
            _ => (Kind::Unreachable, message),
        };
        CallError { action, code: None, message, kind }
    }

    /// EC2's code for the error, such as `InvalidGroup.Duplicate`.
    pub fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    pub fn is_throttled(&self) -> bool {
        self.is(&["RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException", "SlowDown"])
    }

    /// Whether EC2 had no room, there or for the moment.
    pub fn is_capacity(&self) -> bool {
        self.is(&["InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity"])
    }

    /// Whether nobody knows what came of the call.
    pub fn is_transient(&self) -> bool {
        match &self.code {
            Some(_) => self.is(&["InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"]),
            None => matches!(self.kind, Kind::Timeout | Kind::Unreachable),
        }
    }

    /// Says what failed, of which kind that is, and what to do.
    pub fn failure(&self, what: impl std::fmt::Display) -> Failure {
        let failure = Failure::new(self.kind, format!("{what}: {self}"));
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    fn hint(&self) -> Option<String> {
        let Some(code) = self.code.as_deref() else {
            return match self.kind {
                Kind::Denied => Some("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE".into()),
                Kind::Timeout => Some("run it again: nothing is made twice; or wait longer with --call-timeout".into()),
                _ => Some("run it again: nothing is made twice".into()),
            };
        };
        Some(match code {
            "UnauthorizedOperation" => format!("allow the IAM action ec2:{}", self.action),
            "AuthFailure" | "InvalidClientTokenId" | "SignatureDoesNotMatch" | "ExpiredToken" | "RequestExpired" => {
                "check the AWS credentials and the clock".into()
            }
            "OptInRequired" => "enable the region or the product for the account".into(),
            "VcpuLimitExceeded" | "InstanceLimitExceeded" | "MaxSpotInstanceCountExceeded" => {
                "ask for a higher quota in the Service Quotas console, or take a smaller --instance-type".into()
            }
            "InsufficientInstanceCapacity" | "InsufficientHostCapacity" => {
                "try again later, or another --instance-type or --subnet".into()
            }
            "VPCIdNotSpecified" | "DefaultVpcDoesNotExist" | "MissingInput" => "name a subnet with --subnet".into(),
            _ => return None,
        })
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{}: {code}: {}", self.action, self.message),
            None => write!(f, "{}: {}", self.action, self.message),
        }
    }
}

/// Sorts EC2's codes by who has to act (EC2 API reference, "Error codes").
fn kind(code: &str) -> Kind {
    match code {
        "UnauthorizedOperation"
        | "AuthFailure"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "RequestExpired"
        | "OptInRequired"
        | "PendingVerification"
        | "Blocked"
        | "AccessDenied" => Kind::Denied,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "EC2ThrottledException"
        | "SlowDown"
        | "SpotMaxPriceTooLow" => Kind::Limit,
        _ if code.ends_with("LimitExceeded") || code.starts_with("Insufficient") => Kind::Limit,
        _ if code.ends_with("CountExceeded") => Kind::Limit,
        "InvalidAMIID.Unavailable" => Kind::NotFound,
        _ if code.ends_with(".NotFound") => Kind::NotFound,
        "IdempotentParameterMismatch"
        | "DependencyViolation"
        | "OperationNotPermitted"
        | "IncorrectInstanceState"
        | "IncorrectState"
        | "IdempotentInstanceTerminated" => Kind::Conflict,
        _ if code.ends_with(".Duplicate") || code.ends_with(".InUse") => Kind::Conflict,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" => Kind::Unreachable,
        "VPCIdNotSpecified"
        | "DefaultVpcDoesNotExist"
        | "MissingInput"
        | "MissingParameter"
        | "Unsupported"
        | "UnsupportedOperation" => Kind::Input,
        _ if code.starts_with("Invalid") => Kind::Input,
        _ => Kind::Internal,
    }
}

/// A number from 0 to 1 that differs from call to call; it only spreads the retries.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0) >> 32;
    bits as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> CallError {
        CallError { action: "RunInstances", code: Some(code.into()), message: "no".into(), kind: kind(code) }
    }

    #[test]
    fn codes_are_sorted_by_who_has_to_act() {
        for (code, expected) in [
            ("UnauthorizedOperation", Kind::Denied),
            ("VcpuLimitExceeded", Kind::Limit),
            ("InsufficientInstanceCapacity", Kind::Limit),
            ("InvalidAMIID.NotFound", Kind::NotFound),
            ("InvalidGroup.Duplicate", Kind::Conflict),
            ("InvalidParameterValue", Kind::Input),
            ("SomethingNew", Kind::Internal),
        ] {
            assert_eq!(error(code).failure("x").kind, expected, "{code}");
        }
    }

    #[test]
    fn a_denied_action_is_named() {
        let failure = error("UnauthorizedOperation").failure("cannot start an instance");
        assert_eq!(failure.message, "cannot start an instance: RunInstances: UnauthorizedOperation: no");
        assert_eq!(failure.hint.as_deref(), Some("allow the IAM action ec2:RunInstances"));
    }

    #[test]
    fn an_error_with_an_unknown_code_is_not_tried_again() {
        assert!(!error("InvalidParameterValue").is_transient());
        assert!(error("InternalError").is_transient());
        assert!(error("RequestLimitExceeded").is_throttled());
    }
}

//! Errors of EC2 for people: of which kind they are, and what to do.

use crate::quota;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use machine_record::{Failure, Kind, UNTRUSTED, innermost, is_unknown_host, is_untrusted, no_credentials};
use std::error::Error;
use std::rc::Rc;

/// A call that failed for good.
#[derive(Clone, Debug)]
pub struct CallError {
    action: &'static str,
    region: Rc<str>,
    code: Option<String>,
    message: String,
    pub kind: Kind,
}

impl CallError {
    /// An answer without what was asked for.
    pub fn empty(action: &'static str, region: &str) -> Self {
        CallError { action, region: region.into(), code: None, message: "an empty answer".into(), kind: Kind::Internal }
    }

    pub fn new<E: ProvideErrorMetadata + Error + 'static>(
        action: &'static str,
        region: &Rc<str>,
        error: &SdkError<E>,
    ) -> Self {
        let region = region.clone();
        if let Some(code) = error.code() {
            let message = readable(error.message().unwrap_or("no message"));
            return CallError { action, region, code: Some(code.into()), message, kind: kind(code) };
        }
        let message = innermost(error);
        let (kind, message) = match error {
            SdkError::TimeoutError(_) => (Kind::Timeout, "no answer in time".to_string()),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => (Kind::Timeout, message),
            SdkError::DispatchFailure(failure) if !failure.is_io() => (Kind::Denied, message),
            SdkError::ConstructionFailure(_) => (Kind::Internal, message),
            // Cut off, or an answer that is none.
            _ => (Kind::Unreachable, message),
        };
        CallError { action, region, code: None, message, kind }
    }

    /// EC2's code for the error, such as `InvalidGroup.Duplicate`.
    pub fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    pub fn is_throttled(&self) -> bool {
        self.is(&["RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException", "SlowDown"])
    }

    /// Whether EC2 had no room in the zone, there or for the moment; or does not have the type there at all.
    pub fn is_capacity(&self) -> bool {
        self.is(&["InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity"])
            || self.is(&["InsufficientFreeAddressesInSubnet"])
            || (self.is(&["Unsupported"]) && self.message.contains("Availability Zone"))
    }

    /// Whether EC2 sees the group or the address in use.
    pub fn is_in_use(&self) -> bool {
        self.is(&["DependencyViolation", "InvalidGroup.InUse", "InvalidIPAddress.InUse"])
    }

    /// Whether EC2 knows no such instance profile, or not yet: IAM tells it of one, and of its role, seconds after they
    /// were made.
    pub fn is_unknown_profile(&self) -> bool {
        let words = ["iamInstanceProfile", "has no associated IAM Roles"];
        self.is(&["InvalidParameterValue"]) && words.iter().any(|words| self.message.contains(words))
    }

    /// Whether nobody knows what came of the call.
    pub fn is_transient(&self) -> bool {
        match &self.code {
            Some(_) => self.kind == Kind::Unreachable,
            None => {
                matches!(self.kind, Kind::Timeout | Kind::Unreachable)
                    && !is_unknown_host(&self.message)
                    && !is_untrusted(&self.message)
            }
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
        let unanswered = || {
            Some(format!("run it again: nothing is made twice; if it stays so: is {} a region of EC2?", self.region))
        };
        let Some(code) = self.code.as_deref() else {
            return match self.kind {
                Kind::Denied => Some(no_credentials()),
                Kind::Timeout => Some("run it again: nothing is made twice; or wait longer with --call-timeout".into()),
                _ if is_untrusted(&self.message) => Some(UNTRUSTED.into()),
                _ if is_unknown_host(&self.message) => Some(format!("is {} a region of EC2?", self.region)),
                _ => unanswered(),
            };
        };
        Some(match code {
            "UnauthorizedOperation" => format!("allow the IAM action {}", self.denied_action()),
            // EC2 says so of a region that is not enabled, too.
            "AuthFailure" => format!("check the AWS credentials and the clock; is {} enabled for the account?", self.region),
            "InvalidClientTokenId" | "SignatureDoesNotMatch" | "ExpiredToken" | "RequestExpired" => {
                "check the AWS credentials and the clock".into()
            }
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => {
                "the account's first spot machine takes: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com".into()
            }
            "InternalError" => return unanswered(),
            "OptInRequired" => "enable the region or the product for the account".into(),
            "VolumeModificationRateExceeded" | "IncorrectModificationState" => {
                "EBS changes a volume once in six hours: try again later".into()
            }
            "PendingVerification" => {
                "AWS is still checking the account for this region: try again in some hours".into()
            }
            "RequestLimitExceeded" => {
                "EC2 was asked too much at once: run it again, or wait longer with --timeout".into()
            }
            "InsufficientInstanceCapacity" if self.action == "StartInstances" => {
                "try again later, or another --instance-type with --stop-to-resize".into()
            }
            "InsufficientInstanceCapacity" | "InsufficientHostCapacity" => {
                "try again later, or another --instance-type or --subnet".into()
            }
            "InsufficientFreeAddressesInSubnet" => "take another --subnet".into(),
            "InsufficientAddressCapacity" => "EC2 has no address to give at the moment: try again later".into(),
            "VPCIdNotSpecified" | "DefaultVpcDoesNotExist" | "MissingInput" => "name a subnet with --subnet".into(),
            "Blocked" => "AWS has blocked the account: ask its Support".into(),
            _ if self.is_unknown_profile() => {
                "name one of the account: aws iam list-instance-profiles shows them".into()
            }
            _ => quota::hint(code, &self.region).unwrap_or_else(|| "EC2 says why; -v shows the call".into()),
        })
    }
}

impl CallError {
    /// The IAM action that was denied: a call needs others too, such as CreateTags for the tags of what it makes.
    fn denied_action(&self) -> String {
        let named = self.message.split("not authorized to perform: ").nth(1).and_then(|rest| rest.split(' ').next());
        named.map_or_else(|| format!("ec2:{}", self.action), String::from)
    }
}

/// Leaves out what only AWS can read, a kilobyte that tells the same in base64.
fn readable(message: &str) -> String {
    let message = message.split("Encoded authorization failure message:").next().unwrap_or(message);
    message.trim().trim_end_matches('.').to_string()
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
        | "IncorrectModificationState"
        | "SpotMaxPriceTooLow" => Kind::Limit,
        _ if code.starts_with("AuthFailure.") => Kind::Denied,
        _ if code.ends_with("Exceeded") || code.starts_with("Insufficient") => Kind::Limit,
        "InvalidAMIID.Unavailable" => Kind::NotFound,
        _ if code.ends_with(".NotFound") => Kind::NotFound,
        "IdempotentParameterMismatch"
        | "DependencyViolation"
        | "OperationNotPermitted"
        | "IncorrectInstanceState"
        | "IncorrectState"
        | "IdempotentInstanceTerminated" => Kind::Conflict,
        _ if code.ends_with(".Duplicate") || code.ends_with(".InUse") => Kind::Conflict,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" | "ConcurrentTagAccess" => {
            Kind::Unreachable
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::config::http::HttpResponse;
    use aws_sdk_ec2::error::ErrorMetadata;
    use aws_sdk_ec2::operation::describe_regions::DescribeRegionsError;

    fn error(code: &str) -> CallError {
        let (region, message) = ("eu-central-1".into(), "no".into());
        CallError { action: "RunInstances", region, code: Some(code.into()), message, kind: kind(code) }
    }

    #[test]
    fn codes_are_sorted_by_who_has_to_act() {
        for (code, expected) in [
            ("UnauthorizedOperation", Kind::Denied),
            ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", Kind::Denied),
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
    fn an_answer_that_lacks_something_is_told() {
        let empty = CallError::empty("RunInstances", "eu-central-1").failure("x");
        assert_eq!(empty.message, "x: RunInstances: an empty answer");
        assert!(empty.hint.is_some());
        let code = ErrorMetadata::builder().code("Odd").build();
        let answer = HttpResponse::new(400.try_into().unwrap(), "".into());
        let error = SdkError::service_error(DescribeRegionsError::generic(code), answer);
        let failure = CallError::new("DescribeRegions", &"eu-central-1".into(), &error).failure("x");
        assert_eq!(failure.message, "x: DescribeRegions: Odd: no message");
    }

    #[test]
    fn what_to_do_depends_on_the_code() {
        for (code, hint) in [
            ("ExpiredToken", "check the AWS credentials and the clock"),
            ("AuthFailure", "check the AWS credentials and the clock; is eu-central-1 enabled for the account?"),
            (
                "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
                "the account's first spot machine takes: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
            ),
            ("OptInRequired", "enable the region or the product for the account"),
            ("NewLimitExceeded", "ask for a higher quota of eu-central-1 in the Service Quotas console"),
            ("InsufficientFreeAddressesInSubnet", "take another --subnet"),
            ("VolumeModificationRateExceeded", "EBS changes a volume once in six hours: try again later"),
            ("PendingVerification", "AWS is still checking the account for this region: try again in some hours"),
            ("RequestLimitExceeded", "EC2 was asked too much at once: run it again, or wait longer with --timeout"),
            ("InsufficientInstanceCapacity", "try again later, or another --instance-type or --subnet"),
            ("DefaultVpcDoesNotExist", "name a subnet with --subnet"),
        ] {
            assert_eq!(error(code).failure("x").hint.as_deref(), Some(hint), "{code}");
        }
        let started = CallError { action: "StartInstances", ..error("InsufficientInstanceCapacity") };
        let hint = "try again later, or another --instance-type with --stop-to-resize";
        assert_eq!(started.failure("x").hint.as_deref(), Some(hint));
    }

    #[test]
    fn a_denied_action_is_named() {
        let failure = error("UnauthorizedOperation").failure("cannot start an instance");
        assert_eq!(failure.message, "cannot start an instance: RunInstances: UnauthorizedOperation: no");
        assert_eq!(failure.hint.as_deref(), Some("allow the IAM action ec2:RunInstances"));
    }

    #[test]
    fn an_action_that_the_call_needs_beside_its_own_is_named() {
        let mut denied = error("UnauthorizedOperation");
        denied.message = readable(
            "You are not authorized to perform this operation. User: arn:aws:iam::1:user/a is not authorized to \
             perform: iam:PassRole on resource: arn:aws:iam::1:role/web because no identity-based policy allows the \
             iam:PassRole action. Encoded authorization failure message: AAAA",
        );
        let failure = denied.failure("cannot start an instance");
        assert_eq!(failure.hint.as_deref(), Some("allow the IAM action iam:PassRole"));
        assert!(failure.message.ends_with("allows the iam:PassRole action"), "{}", failure.message);
    }

    #[test]
    fn a_zone_without_the_type_is_one_without_room() {
        let mut error = error("Unsupported");
        assert!(!error.is_capacity());
        error.message = "Your requested instance type (t3.micro) is not supported in your requested Availability Zone \
                         (us-east-1e)"
            .into();
        assert!(error.is_capacity());
    }

    #[test]
    fn a_server_that_does_not_exist_is_not_asked_again() {
        let mut error = error("");
        (error.code, error.kind) = (None, Kind::Unreachable);
        error.message = "failed to lookup address information: Temporary failure in name resolution".into();
        assert!(error.is_transient());
        error.message = "failed to lookup address information: Name or service not known".into();
        assert!(!error.is_transient());
        assert_eq!(error.failure("x").hint.as_deref(), Some("is eu-central-1 a region of EC2?"));
    }

    #[test]
    fn an_error_with_an_unknown_code_is_not_tried_again() {
        assert!(!error("InvalidParameterValue").is_transient());
        assert!(error("InternalError").is_transient());
        assert!(error("ConcurrentTagAccess").is_transient(), "two runs tag at once");
        assert!(error("RequestLimitExceeded").is_throttled());
    }
}

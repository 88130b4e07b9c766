//! What a tool would do, as one entry of the member `plan`.

use serde::Serialize;

/// One change that a tool would make.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlanEntry {
    /// The tool that would do it
    pub tool: String,
    /// `create update replace delete build send start stop restart reload reboot`
    pub action: String,
    /// `kind/name`, such as `instance/web-1` or `unit/nginx.service`
    pub resource: String,
    /// Why, for people
    pub reason: Option<String>,
    /// What else is known of it, such as old and new values
    pub details: serde_json::Value,
}

impl PlanEntry {
    /// Makes an entry without details.
    pub fn new(tool: &str, action: &str, resource: impl Into<String>, reason: impl Into<String>) -> Self {
        PlanEntry {
            tool: tool.into(),
            action: action.into(),
            resource: resource.into(),
            reason: Some(reason.into()),
            details: serde_json::Value::Null,
        }
    }

    /// Adds details.
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.details = details;
        self
    }
}

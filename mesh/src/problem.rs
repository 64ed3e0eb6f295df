//! What is wrong with an object that a person wrote: always names the object, the field and what to do.

use std::fmt;

use serde::Serialize;

use crate::object::ObjectRef;

/// Why (part of) an object is not honoured. The names are part of the API: they appear in conditions and metrics.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A name, namespace or other needed field is missing.
    Incomplete,
    /// A kind other than the ones the field may hold.
    UnknownKind,
    /// An object speaks for a service account or a service of another namespace.
    ForeignNamespace,
    /// A TrafficTarget has no rules, or a rule opens nothing.
    OpensNothing,
    /// A reference to an object that does not exist (yet).
    NotFound,
    /// A regular expression that Envoy would refuse, or that is too large.
    BadRegex,
    /// A method or header name that HTTP does not allow.
    BadHttp,
    /// A port outside 1 to 65535.
    BadPort,
    /// A weight below 0, or weights that add up to 0 or too much.
    BadWeight,
    /// Another object already says it, and only one can.
    Conflict,
    /// Services disagree on the protocol of one port of one pod.
    ProtocolConflict,
    /// An address range or a host name that cannot be read.
    BadAddress,
    /// An EndpointSlice gives a pod an address that the pod does not have.
    NotItsAddress,
    /// A duration, limit or other setting that cannot be honoured.
    BadSetting,
    /// A selector that cannot be read.
    BadSelector,
    /// An object labelled as coming from Git that its source's sealed commit does not hold like this.
    NotSealed,
    /// A sealed commit that the API server does not (yet) hold completely.
    SealIncomplete,
    /// An object of a sealed commit that cannot be read keeps its whole source from going on.
    SealBlocked,
    /// Nothing that does not come from a PolicySource counts in this mesh.
    NotFromSource,
    /// A MeshPolicy that is weaker than the floor of its mesh.
    BelowFloor,
    /// Too large to be worth anything but trouble.
    TooLarge,
}

impl Reason {
    /// The reason as conditions and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "Incomplete",
            Self::UnknownKind => "UnknownKind",
            Self::ForeignNamespace => "ForeignNamespace",
            Self::OpensNothing => "OpensNothing",
            Self::NotFound => "NotFound",
            Self::BadRegex => "BadRegex",
            Self::BadHttp => "BadHttp",
            Self::BadPort => "BadPort",
            Self::BadWeight => "BadWeight",
            Self::Conflict => "Conflict",
            Self::ProtocolConflict => "ProtocolConflict",
            Self::BadAddress => "BadAddress",
            Self::NotItsAddress => "NotItsAddress",
            Self::BadSetting => "BadSetting",
            Self::BadSelector => "BadSelector",
            Self::NotSealed => "NotSealed",
            Self::SealIncomplete => "SealIncomplete",
            Self::SealBlocked => "SealBlocked",
            Self::NotFromSource => "NotFromSource",
            Self::BelowFloor => "BelowFloor",
            Self::TooLarge => "TooLarge",
        }
    }
}

/// Something wrong with an object.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Which object.
    pub object: ObjectRef,
    /// Path of the field, as in `spec.rules[0].name`; empty when it is the object as a whole.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with one field of an object.
    #[must_use]
    pub fn new(object: &ObjectRef, field: &str, reason: Reason, message: impl Into<String>) -> Self {
        Self { object: object.clone(), field: field.to_owned(), reason, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}: {}", self.reason.as_str(), self.message)
    }
}

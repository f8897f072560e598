//! How a request fails: a code that programs go by, and a sentence for people.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal;)*) => {
        /// The status codes of gRPC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Code {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Code {
            /// All of them, by number.
            pub const ALL: [Code; 17] = [$(Code::$variant),*];

            /// As gRPC spells it: `NOT_FOUND`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$variant => $name,)*
                }
            }

            /// gRPC's number.
            pub fn number(self) -> u8 {
                match self {
                    $(Code::$variant => $number,)*
                }
            }
        }
    };
}

codes! {
    /// No failure.
    Ok = 0 "OK";
    /// The caller took it back.
    Cancelled = 1 "CANCELLED";
    /// Nobody knows.
    Unknown = 2 "UNKNOWN";
    /// The request makes no sense, whatever the state.
    InvalidArgument = 3 "INVALID_ARGUMENT";
    /// The time that the request gave was over before the end.
    DeadlineExceeded = 4 "DEADLINE_EXCEEDED";
    /// No such pod sandbox, container or image.
    NotFound = 5 "NOT_FOUND";
    /// Somebody else has the name or the id.
    AlreadyExists = 6 "ALREADY_EXISTS";
    /// The caller may not.
    PermissionDenied = 7 "PERMISSION_DENIED";
    /// Too much at once, or no space.
    ResourceExhausted = 8 "RESOURCE_EXHAUSTED";
    /// It is in a state in which this cannot be done.
    FailedPrecondition = 9 "FAILED_PRECONDITION";
    /// Something came in between; trying again may help.
    Aborted = 10 "ABORTED";
    /// Beyond the end.
    OutOfRange = 11 "OUT_OF_RANGE";
    /// There is no such RPC here, or not with this field.
    Unimplemented = 12 "UNIMPLEMENTED";
    /// Our mistake, or the kernel's refusal.
    Internal = 13 "INTERNAL";
    /// Not now.
    Unavailable = 14 "UNAVAILABLE";
    /// Records are damaged.
    DataLoss = 15 "DATA_LOSS";
    /// Nobody is logged in.
    Unauthenticated = 16 "UNAUTHENTICATED";
}

impl Code {
    /// The number that a JSON-RPC error carries for it: `-32000` less gRPC's number, within what JSON-RPC leaves to servers.
    pub fn json_rpc(self) -> i32 {
        -32000 - i32::from(self.number())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a request was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What kind of failure.
    pub code: Code,
    /// One sentence, as everywhere in husk: lower case, no full stop.
    pub message: String,
}

impl Status {
    /// A failure with this sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }

    /// [`Code::InvalidArgument`]; name the field.
    pub fn invalid_argument(message: impl Into<String>) -> Status {
        Status::new(Code::InvalidArgument, message)
    }

    /// [`Code::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Status {
        Status::new(Code::NotFound, message)
    }

    /// [`Code::FailedPrecondition`].
    pub fn failed_precondition(message: impl Into<String>) -> Status {
        Status::new(Code::FailedPrecondition, message)
    }

    /// [`Code::Unimplemented`].
    pub fn unimplemented(message: impl Into<String>) -> Status {
        Status::new(Code::Unimplemented, message)
    }

    /// [`Code::Internal`].
    pub fn internal(message: impl Into<String>) -> Status {
        Status::new(Code::Internal, message)
    }
}

/// `NOT_FOUND: pod sandbox x: …`
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grpcs_and_stay_within_json_rpcs_range() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
            assert!((-32099..=-32000).contains(&code.json_rpc()), "{code}");
        }
        assert_eq!((Code::NotFound.number(), Code::NotFound.json_rpc()), (5, -32005));
        assert_eq!(Status::not_found("pod sandbox x").to_string(), "NOT_FOUND: pod sandbox x");
    }
}

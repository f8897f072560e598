//! How a command ends when it does not end well: one sentence and an exit code.

use std::fmt::Write as _;

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The command line asks for something that makes no sense; exit code 2.
    Usage {
        /// One sentence.
        message: String,
    },
    /// What was asked for did not happen; exit code 1.
    Failed {
        /// One sentence.
        message: String,
    },
    /// Several things are wrong at once; exit code 1.
    Invalid {
        /// One sentence each.
        messages: Vec<String>,
    },
    /// Everything was said already, or a command in a container chose the code.
    Exit {
        /// The exit code.
        code: u8,
    },
    /// Whoever read our output has gone: exit code 141, as a tool that SIGPIPE ends.
    ClosedOutput,
}

impl Error {
    /// [`Error::Failed`] with this sentence.
    pub fn failed(message: impl Into<String>) -> Error {
        Error::Failed { message: message.into() }
    }

    /// [`Error::Usage`] with this sentence.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::Usage { message: message.into() }
    }

    /// The exit code for the shell.
    pub fn code(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::Failed { .. } | Error::Invalid { .. } => 1,
            Error::Exit { code } => *code,
            Error::ClosedOutput => 128 + 13,
        }
    }

    /// What to tell the user, a line each.
    pub fn messages(&self) -> &[String] {
        match self {
            Error::Usage { message } | Error::Failed { message } => std::slice::from_ref(message),
            Error::Invalid { messages } => messages,
            Error::Exit { .. } | Error::ClosedOutput => &[],
        }
    }
}

/// Every room's error becomes one sentence: its own text, then the sources that it does not repeat.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error::failed(sentence(&error))
    }
}

/// The error's text, and its sources' as far as it does not hold them already.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            // Writing to a String can't fail.
            let _ = write!(text, ": {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn a_source_is_said_once() {
        let cause = || "x".parse::<u8>().expect_err("not a number");
        assert_eq!(sentence(&Outer("read it", cause())), "read it: invalid digit found in string");
        assert_eq!(
            sentence(&Outer("read it: invalid digit found in string", cause())),
            "read it: invalid digit found in string"
        );
    }
}

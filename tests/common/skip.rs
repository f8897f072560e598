//! Tests that cannot run here: they say why, and are counted. `tests/skips` names those that may do so, and where.

use std::io::Write;

/// Ends a test that cannot run on this host, with the reason in one sentence. Nothing else may end a test early: `scripts/test` counts what this prints,
/// and in CI refuses what `tests/skips` does not name.
#[allow(unused_macros, reason = "not every test program has something to skip")]
macro_rules! skip {
    ($($reason:tt)+) => {{
        fn here() {}
        $crate::common::skip::say(std::any::type_name_of_val(&here), &format!($($reason)+));
        return;
    }};
}
#[allow(unused_imports, reason = "not every test program has something to skip")]
pub(crate) use skip;

/// Prints the line of a skipped test past the capture of the test harness. `here` is the path of a function inside the test's own.
#[allow(dead_code, reason = "not every test program has something to skip")]
pub fn say(here: &str, reason: &str) {
    let test = here.strip_suffix("::here").unwrap_or(here);
    // With one thread the harness has begun a line.
    let line = format!("\nskipped: {test}: {reason}\n");
    let _ = std::io::stdout().write_all(line.as_bytes());
}

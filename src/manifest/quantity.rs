//! Kubernetes quantities: `500m`, `64Mi`, `1e3`.

use std::fmt;

/// A fixed-point number, exact to a nano unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form number + suffix.
    Syntax,
    /// Beyond 2^63-1 in magnitude.
    Overflow,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantityError::Syntax => {
                "not a quantity; write a number with an optional suffix, such as 500m, 2, 64Mi or 1e3"
            }
            QuantityError::Overflow => "too large; a quantity is at most 2^63-1",
        })
    }
}

impl std::error::Error for QuantityError {}

impl Quantity {
    /// Whole units, rounded up; `None` when negative.
    pub fn value(self) -> Option<u64> {
        self.scaled(NANO)
    }

    /// Thousandths, rounded up; `None` when negative or beyond `u64`.
    pub fn millis(self) -> Option<u64> {
        self.scaled(NANO / 1000)
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// No fraction of a unit.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    fn scaled(self, nanos_per_unit: i128) -> Option<u64> {
        u64::try_from(self.nanos.checked_add(nanos_per_unit - 1)?.div_euclid(nanos_per_unit))
            .ok()
            .filter(|_| !self.is_negative())
    }
}

/// Parses the full Kubernetes syntax: sign, decimals, suffixes `n u m k M G T P E`, `Ki`…`Ei`, or an exponent.
///
/// Finer than a nano unit is rounded away from zero, as Kubernetes does.
///
/// # Errors
/// Kubernetes caps what is beyond 2^63-1; here it is an error.
pub fn quantity(s: &str) -> Result<Quantity, QuantityError> {
    let (negative, rest) = match s.as_bytes().first() {
        Some(b'-') => (true, &s[1..]),
        Some(b'+') => (false, &s[1..]),
        _ => (false, s),
    };
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError::Syntax);
    }
    let (binary, exponent) = scale_of(suffix).ok_or(QuantityError::Syntax)?;

    // value = digits * 1024^binary * 10^(exponent - length of the fraction), in nanos: * 10^9. Digits of the fraction that can't reach a nano
    // unit even with the largest suffix only count as "a little more".
    let (fraction, dropped) = fraction.split_at(fraction.len().min(MAX_FRACTION));
    let mut sticky = dropped.bytes().any(|b| b != b'0');
    let fraction = fraction.trim_end_matches('0');
    let mut nanos = digits(whole.trim_start_matches('0'), fraction)?;
    for _ in 0..binary {
        nanos = nanos.checked_mul(1024).ok_or(QuantityError::Overflow)?;
    }
    let power = exponent + 9 - fraction.len() as i64;
    if nanos != 0 {
        for _ in 0..power.max(0) {
            nanos = nanos.checked_mul(10).ok_or(QuantityError::Overflow)?;
        }
    }
    for _ in 0..(-power).max(0) {
        sticky |= nanos % 10 != 0;
        nanos /= 10;
        if nanos == 0 {
            break;
        }
    }
    nanos += i128::from(sticky);
    if nanos > i128::from(i64::MAX) * NANO {
        return Err(QuantityError::Overflow);
    }
    Ok(Quantity { nanos: if negative { -nanos } else { nanos } })
}

const NANO: i128 = 1_000_000_000;

/// Ei is less than 10^19 and a nano unit 10^-9: the 28th digit is the last that can matter. One less keeps the arithmetic in 128 bits.
const MAX_FRACTION: usize = 18;

fn digits(whole: &str, fraction: &str) -> Result<i128, QuantityError> {
    whole.bytes().chain(fraction.bytes()).try_fold(0i128, |n, b| {
        n.checked_mul(10).and_then(|n| n.checked_add(i128::from(b - b'0'))).ok_or(QuantityError::Overflow)
    })
}

/// Powers of 1024 and of 10 of a suffix.
fn scale_of(suffix: &str) -> Option<(u32, i64)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (1, 0),
        "Mi" => (2, 0),
        "Gi" => (3, 0),
        "Ti" => (4, 0),
        "Pi" => (5, 0),
        "Ei" => (6, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || unsigned.len() > 4 || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (0, exponent.parse().ok()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(s: &str) -> i128 {
        quantity(s).unwrap_or_else(|e| panic!("{s}: {e}")).nanos
    }

    #[test]
    fn every_suffix_is_understood() {
        for (text, want) in [
            ("0", 0),
            ("1", NANO),
            ("+1", NANO),
            ("-1", -NANO),
            ("1n", 1),
            ("1u", 1_000),
            ("100m", NANO / 10),
            ("1.", NANO),
            (".5", NANO / 2),
            ("0.5", NANO / 2),
            ("1k", 1_000 * NANO),
            ("2M", 2_000_000 * NANO),
            ("1G", 1_000_000_000 * NANO),
            ("1T", 1_000_000_000_000 * NANO),
            ("1P", 1_000_000_000_000_000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("1Ki", 1024 * NANO),
            ("1.5Gi", 1536 * 1024 * 1024 * NANO),
            ("7Ei", 7 * (1 << 60) * NANO),
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1e+3", 1_000 * NANO),
            ("15e-1", 15 * NANO / 10),
            ("9223372036854775807", i128::from(i64::MAX) * NANO),
        ] {
            assert_eq!(nanos(text), want, "{text}");
        }
    }

    #[test]
    fn too_fine_is_rounded_away_from_zero() {
        assert_eq!(nanos("0.0000000001"), 1);
        assert_eq!(nanos("1e-9999"), 1);
        assert_eq!(nanos("-0.0000000001"), -1);
        assert_eq!(nanos(&format!("0.{}1", "0".repeat(500))), 1);
        assert_eq!(nanos(&format!("1.{}", "0".repeat(500))), NANO);
        assert_eq!(nanos("0e9999"), 0);
        assert_eq!(quantity("1n").expect("q").value(), Some(1));
        assert_eq!(quantity("1n").expect("q").millis(), Some(1));
        assert_eq!(quantity("1500m").expect("q").value(), Some(2));
        assert_eq!(quantity("1500m").expect("q").millis(), Some(1500));
        assert_eq!(quantity("-1").expect("q").value(), None);
        assert_eq!(quantity("9223372036854775807").expect("q").millis(), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", " 1", "1 ", "x", "1x", "1ki", "1K", "1e", "1e+", "1.2.3", "--1", "1mi", "0x10", "1e1.5", "Mi", "-",
            ".", "١", "1e99999", "1_0",
        ] {
            assert_eq!(quantity(text), Err(QuantityError::Syntax), "{text:?}");
        }
        for text in ["9223372036854775808", "8Ei", "10E", "1e19", "1e9999", &"9".repeat(400)] {
            assert_eq!(quantity(text), Err(QuantityError::Overflow), "{text:?}");
        }
    }
}

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
        self.scaled(1_000_000_000)
    }

    /// Thousandths, rounded up; `None` when negative or beyond `u64`.
    pub fn millis(self) -> Option<u64> {
        self.scaled(1_000_000)
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    fn scaled(self, nanos_per_unit: i128) -> Option<u64> {
        u64::try_from(self.nanos.checked_add(nanos_per_unit - 1)?.div_euclid(nanos_per_unit))
            .ok()
            .filter(|_| !self.is_negative())
    }
}

/// Parses the full Kubernetes syntax: sign, decimals, suffixes `n u m k M G T P E`, `Ki`…`Ei`, or an exponent.
///
/// Finer than a nano unit is rounded up (away from zero), as Kubernetes does.
pub fn quantity(s: &str) -> Result<Quantity, QuantityError> {
    let _ = s;
    unimplemented!()
}

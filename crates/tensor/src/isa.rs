//! The instruction sets that the kernels are compiled for, and the choice among them at run time.
//! Knows names and processor features; must not know any kernel.

use crate::Error;
use std::fmt;
use std::str::FromStr;

/// The environment variable that overrides the detected instruction set.
pub const ISA_VARIABLE: &str = "TAOYE_ISA";

/// One instance of every kernel. All of them give the same bits; they differ only in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// x86-64 with AVX-512 F, VL, DQ and BW: sixteen lanes.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C (they came together): eight lanes.
    Avx2,
    /// aarch64: four lanes.
    Neon,
    /// Plain Rust arrays of four lanes: runs everywhere.
    Portable,
    /// Plain Rust arrays of sixteen lanes: the shape of `Avx512`, testable everywhere.
    Emulated16,
}

impl Isa {
    /// Every instruction set that the crate knows, the fastest first.
    pub const ALL: [Isa; 5] = [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable, Isa::Emulated16];

    /// The fastest instruction set of this processor.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Every instruction set that this processor runs, the fastest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor (and operating system) runs the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable | Isa::Emulated16 => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The instruction set named by `TAOYE_ISA`, or the detected one where the variable is unset or empty.
    ///
    /// # Errors
    /// The name is unknown, or this processor lacks the instruction set; the message lists what it has.
    pub fn from_environment() -> Result<Isa, Error> {
        match std::env::var_os(ISA_VARIABLE) {
            None => Ok(Isa::detect()),
            Some(value) if value.is_empty() => Ok(Isa::detect()),
            Some(value) => Isa::from_name(&value.to_string_lossy()),
        }
    }

    /// The instruction set of that name, if this processor runs it.
    ///
    /// # Errors
    /// The name is unknown, or this processor lacks the instruction set.
    pub fn from_name(name: &str) -> Result<Isa, Error> {
        name.parse::<Isa>()?.require_available()
    }

    /// `self`, if this processor runs it.
    ///
    /// # Errors
    /// This processor lacks the instruction set.
    pub fn require_available(self) -> Result<Isa, Error> {
        if self.is_available() {
            Ok(self)
        } else {
            Err(Error::IsaUnavailable { isa: self, available: names(&Isa::available()) })
        }
    }

    /// Lanes of f32 in one vector register.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Avx512 | Isa::Emulated16 => 16,
            Isa::Avx2 => 8,
            Isa::Neon | Isa::Portable => 4,
        }
    }

    /// Whether it is written with the processor's vector instructions rather than plain arrays.
    pub fn is_vector(self) -> bool {
        matches!(self, Isa::Avx512 | Isa::Avx2 | Isa::Neon)
    }

    /// The name used on the command line and in `TAOYE_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
            Isa::Emulated16 => "emulated16",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Isa, Error> {
        let lower = name.trim().to_ascii_lowercase();
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name() == lower)
            .ok_or_else(|| Error::UnknownIsa { name: name.to_owned(), available: names(&Isa::available()) })
    }
}

fn names(list: &[Isa]) -> String {
    list.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
            assert_eq!(isa.name().to_uppercase().parse::<Isa>().unwrap(), isa);
        }
    }

    #[test]
    fn portable_instances_are_always_there() {
        let available = Isa::available();
        assert!(available.contains(&Isa::Portable) && available.contains(&Isa::Emulated16));
        assert!(available.contains(&Isa::detect()));
    }

    #[test]
    #[cfg(target_arch = "aarch64")]
    fn aarch64_has_neon() {
        assert_eq!(Isa::available(), [Isa::Neon, Isa::Portable, Isa::Emulated16]);
        assert_eq!(Isa::detect(), Isa::Neon);
    }

    #[test]
    fn unknown_and_missing_names_are_precise() {
        let unknown = Isa::from_name("sse9").unwrap_err().to_string();
        assert!(unknown.contains("sse9") && unknown.contains("portable"), "{unknown}");
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            let message = Isa::from_name(isa.name()).unwrap_err().to_string();
            assert!(message.contains(isa.name()) && message.contains("portable"), "{message}");
        }
    }
}

//! How large the processor's caches are: sizes of blocks that change no result. Must not know what lies in them.

/// What is taken where the processor does not tell.
const USUAL_BYTES: usize = 32 << 10;

/// The first-level data cache of one core.
pub(crate) fn first_level_bytes() -> usize {
    told().filter(|bytes| (16 << 10..=256 << 10).contains(bytes)).unwrap_or(USUAL_BYTES)
}

/// What `cpuid` tells: leaf 4 of Intel's processors, which AMD's have at 0x8000_001D with the same fields, lists the caches.
#[cfg(target_arch = "x86_64")]
fn told() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let vendor = __cpuid(0);
    let is_amd = vendor.ebx == u32::from_le_bytes(*b"Auth") || vendor.ebx == u32::from_le_bytes(*b"Hygo");
    let (leaf, last) = if is_amd { (0x8000_001D, __cpuid(0x8000_0000).eax) } else { (4, vendor.eax) };
    if leaf > last {
        return None;
    }
    let caches = (0..8).map(|number| __cpuid_count(leaf, number)).take_while(|cache| cache.eax & 31 != 0);
    // Type 1 holds data only, level 1 is the first.
    let first = caches.into_iter().find(|cache| cache.eax & 31 == 1 && cache.eax >> 5 & 7 == 1)?;
    let field = |shift: u32, bits: u32| (first.ebx >> shift & ((1 << bits) - 1)) as usize + 1;
    Some(field(0, 12) * field(12, 10) * field(22, 10) * (first.ecx as usize + 1))
}

#[cfg(not(target_arch = "x86_64"))]
fn told() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_level_is_no_less_than_any_processor_has() {
        let bytes = first_level_bytes();
        assert!((16 << 10..=256 << 10).contains(&bytes) && bytes.is_multiple_of(4096), "{bytes}");
    }
}

//! Which groups or documents are held out, and how much of the text one group may have. Pure functions of names and
//! sizes; it must not know files.

use base::hash::hash_128;

/// With fewer groups than this, single documents are split instead of groups: a share of a handful of folders is a
/// lottery.
pub const GROUPS_MIN: usize = 20;

/// Marks about `share` of the names as held out, by their [`place`] alone, so that a name falls on the same side in
/// every corpus. Where chance leaves one side empty, the name nearest to the border crosses over (with two or more).
pub fn hold_out(places: &[f64], share: f64) -> Vec<bool> {
    let mut held_out: Vec<bool> = places.iter().map(|&place| place < share).collect();
    let first_with = |value: bool, wanted: std::cmp::Ordering| {
        let same_side = (0..places.len()).filter(|&index| held_out[index] == value);
        same_side.min_by(|&left, &right| match wanted {
            std::cmp::Ordering::Less => places[left].total_cmp(&places[right]),
            _ => places[right].total_cmp(&places[left]),
        })
    };
    if share <= 0.0 || places.len() < 2 {
        return vec![false; places.len()];
    }
    let crossing = if held_out.iter().all(|&value| !value) {
        first_with(false, std::cmp::Ordering::Less)
    } else if held_out.iter().all(|&value| value) {
        first_with(true, std::cmp::Ordering::Greater)
    } else {
        None
    };
    if let Some(index) = crossing {
        held_out[index] = !held_out[index];
    }
    held_out
}

/// The share of one group that a number of groups allows: with few groups a small share cannot be held, so at least
/// twice the mean.
pub fn feasible_share(share: f64, groups: usize) -> f64 {
    share.max(2.0 / groups.max(1) as f64).min(1.0)
}

/// The largest limit L in bytes such that no group has more than `share` of the text after each is cut to L, that is
/// L ≤ share · Σ min(size, L). Found by lowering L until it holds; `share` must be feasible.
pub fn group_limit_bytes(sizes: &[u64], share: f64) -> u64 {
    let mut limit = sizes.iter().copied().max().unwrap_or(0);
    loop {
        let total: u64 = sizes.iter().map(|&size| size.min(limit)).sum();
        let allowed = (share * total as f64) as u64;
        if limit <= allowed || limit == 0 {
            return limit;
        }
        limit = allowed;
    }
}

/// A name's place in [0, 1), uniform over names.
pub fn place(name: &str) -> f64 {
    ((hash_128(name.as_bytes()) as u64) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[String]) -> Vec<f64> {
        names.iter().map(|name| place(name)).collect()
    }

    #[test]
    fn a_name_stays_on_its_side_whatever_the_company() {
        let names: Vec<String> = (0..4000).map(|index| format!("crate-{index}")).collect();
        let held_out = hold_out(&places(&names), 0.05);
        let count = held_out.iter().filter(|&&value| value).count();
        assert!((150..250).contains(&count), "{count} of 4,000");
        let some: Vec<usize> = (0..4000).step_by(7).collect();
        let again = hold_out(&some.iter().map(|&index| place(&names[index])).collect::<Vec<_>>(), 0.05);
        assert!(some.iter().zip(&again).all(|(&index, &value)| held_out[index] == value));
    }

    #[test]
    fn neither_side_is_empty() {
        for count in [2, 3, 10] {
            let names: Vec<String> = (0..count).map(|index| format!("文件夹{index}")).collect();
            for share in [1e-9, 0.05, 0.5, 1.0 - 1e-9] {
                let held_out = hold_out(&places(&names), share);
                assert!(held_out.contains(&true) && held_out.contains(&false), "{count} at {share}");
            }
        }
        assert_eq!(hold_out(&[0.3], 0.5), [false]);
        assert_eq!(hold_out(&[0.3, 0.0], 0.0), [false, false]);
    }

    #[test]
    fn the_limit_holds_and_is_not_too_strict() {
        let cases: [(&[u64], f64); 4] = [
            (&[1000, 10, 10, 10, 10], 0.4),
            (&[5, 5, 5, 5], 0.5),
            (&[900, 800, 1, 1, 1, 1, 1, 1], 0.25),
            (&[], 0.5),
        ];
        for (sizes, share) in cases {
            let limit = group_limit_bytes(sizes, share);
            let total = |limit: u64| sizes.iter().map(|&size| size.min(limit)).sum::<u64>() as f64;
            let largest = |limit: u64| sizes.iter().map(|&size| size.min(limit)).max().unwrap_or(0) as f64;
            assert!(largest(limit) <= share * total(limit) + 1.0, "{sizes:?}");
            if largest(limit + 2) > largest(limit) {
                assert!(largest(limit + 2) > share * total(limit + 2), "{sizes:?}: {limit} is too strict");
            }
        }
        assert_eq!(feasible_share(0.03, 1000), 0.03);
        assert_eq!(feasible_share(0.03, 10), 0.2);
        assert_eq!(feasible_share(0.03, 1), 1.0);
    }
}

//! A small shape measured whole: what the profile must account for.

#![allow(clippy::unwrap_used)]
use super::*;
use tensor::Isa;

fn settings() -> BenchSettings {
    BenchSettings {
        shape: BenchShape { width: 64, layers: 2, vocab: 256, batch: 2, context: 32 },
        warm_up: 2,
        steps: 2,
        optimiser: OptimiserKind::AdamW,
        activation_checkpointing: false,
        profile: true,
        allocations: None,
    }
}

#[test]
fn every_operation_is_in_the_profile() {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let products = ["qkv", "out", "gate_up", "down", "head"];
    let layers = 2.0;
    for (optimiser, activation_checkpointing, in_update) in [
        (OptimiserKind::AdamW, false, &["gradient norm", "adamw"][..]),
        (OptimiserKind::Muon, true, &["gradient norm", "adamw", "muon", "newton-schulz"]),
    ] {
        let found =
            step_bench(&device, BenchSettings { optimiser, activation_checkpointing, ..settings() }).unwrap();
        let rows = found.profile.unwrap();
        let calls = |phase: &str, operation: &str| {
            rows.iter().find(|row| (row.phase, &*row.operation) == (phase, operation)).map(|row| row.calls)
        };
        for operation in products {
            let expected = if operation == "head" { 1.0 } else { layers };
            for phase in ["forward", "input gradient", "weight gradient"] {
                assert_eq!(calls(phase, operation), Some(expected), "{phase} {operation}");
            }
        }
        for operation in ["embed", "norm", "rotary", "attention", "activation", "add", "loss"] {
            assert!(calls("forward", operation).is_some(), "{operation}");
        }
        for operation in in_update {
            assert!(calls("update", operation).is_some(), "{operation}");
        }
        // The last layer is kept, and the gradients of so few parameters have no room for the first one's.
        assert_eq!(calls("again", "gate_up"), activation_checkpointing.then_some(layers - 1.0));
        let sum: f64 = rows.iter().map(|row| row.ms).sum();
        assert!(sum > 0.0 && sum <= found.step_ms, "{sum} of {} ms", found.step_ms);
    }
}

#[test]
fn unusable_shapes_are_refused_by_name() {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let shape = settings().shape;
    for (shape, expected) in [
        (BenchShape { width: 100, ..shape }, "`width` is 100"),
        (BenchShape { layers: 0, ..shape }, "`layers` is 0"),
        (BenchShape { batch: 0, ..shape }, "`batch_sequences` is 0"),
        (BenchShape { context: 1 << 40, ..shape }, "memory"),
    ] {
        let message = step_bench(&device, BenchSettings { shape, ..settings() }).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

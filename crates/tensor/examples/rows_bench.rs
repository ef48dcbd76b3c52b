//! Measures each row kernel in GB/s of memory touched or GFLOP/s, for two shapes of model:
//! `cargo run --release -p tensor --example rows_bench [threads]`. Knows kernels only.

use std::ops::Range;
use std::time::Instant;
use tensor::kernels::{self, Activation, AdamW, AdamWState, AttentionBatch, AttentionKept, RotaryTable};
use tensor::{Exec, Heads, Isa, Pool};

struct Shape {
    name: &'static str,
    tokens: usize,
    heads: Heads,
    feed_forward: usize,
    vocabulary: usize,
    context: usize,
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let pool = Pool::new(threads);
    let exec = Exec::new(&pool, Isa::detect()).expect("the detected instruction set is available");
    println!("{} on {threads} threads, best of several runs", exec.isa());
    let small = Heads { heads: 4, kv_heads: 4, head_dim: 64 };
    let medium = Heads { heads: 12, kv_heads: 12, head_dim: 64 };
    let shapes = [
        Shape { name: "S", tokens: 4096, heads: small, feed_forward: 688, vocabulary: 8192, context: 256 },
        Shape {
            name: "M",
            tokens: 2048,
            heads: medium,
            feed_forward: 2048,
            vocabulary: 32_000,
            context: 512,
        },
    ];
    for shape in &shapes {
        println!("-- {}", shape.name);
        norms(exec, shape);
        elementwise(exec, shape);
        loss(exec, shape);
        optimiser(exec, shape);
        attention(exec, shape);
    }
}

/// Runs `body` for about a third of a second and prints the best rate.
fn report(name: &str, amount: f64, unit: &str, mut body: impl FnMut()) {
    body();
    let (begin, mut best_seconds) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        body();
        best_seconds = best_seconds.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<28}{:>9.1} us {:>9.1} {unit}", best_seconds * 1e6, amount / best_seconds / 1e9);
}

fn bytes(floats: usize) -> f64 {
    (floats * size_of::<f32>()) as f64
}

/// Values in (−1, 1) without any pattern that matters to speed.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 7919) % 4001) as f32 / 2000.5 - 1.0).collect()
}

fn norms(exec: Exec<'_>, shape: &Shape) {
    let width = shape.heads.out_width();
    let len = shape.tokens * width;
    let (x, dy, gain) = (values(len), values(len), values(width));
    let (mut y, mut dx, mut dgain) = (values(len), values(len), values(width));
    report("rms_norm", bytes(2 * len), "GB/s", || kernels::rms_norm(exec, &x, &gain, 1e-5, &mut y));
    report("add_rms_norm", bytes(4 * len), "GB/s", || {
        kernels::add_rms_norm(exec, (&x, &dy), (&gain, 1e-5), &mut dx, &mut y);
    });
    report("rms_norm_backward", bytes(4 * len), "GB/s", || {
        let gradients = kernels::NormGradients { dx: &mut dx, dgain: &mut dgain };
        kernels::rms_norm_backward(exec, &x, (&gain, 1e-5), &dy, gradients);
    });
    let fused = shape.tokens * shape.heads.fused_width();
    let mut qkv = values(fused);
    let table = RotaryTable::new(shape.heads.head_dim, shape.heads.head_dim, 10_000.0, shape.context);
    let positions: Vec<u32> = (0..shape.tokens).map(|token| (token % shape.context) as u32).collect();
    report("rotary", bytes(fused * 4 / 3), "GB/s", || {
        kernels::rotary(exec, &mut qkv, &positions, &table, shape.heads);
    });
}

fn elementwise(exec: Exec<'_>, shape: &Shape) {
    let (rows, width) = (shape.tokens, shape.feed_forward);
    let (gate_up, dy) = (values(2 * rows * width), values(rows * width));
    let (mut y, mut d_gate_up) = (values(rows * width), values(2 * rows * width));
    report("swiglu", bytes(3 * rows * width), "GB/s", || kernels::swiglu(exec, &gate_up, rows, &mut y));
    report("swiglu_backward", bytes(5 * rows * width), "GB/s", || {
        kernels::swiglu_backward(exec, &gate_up, &dy, rows, &mut d_gate_up);
    });
    report("geglu", bytes(3 * rows * width), "GB/s", || {
        kernels::gated(exec, &gate_up, Activation::GeluTanh, rows, &mut y);
    });
    report("add_into", bytes(3 * rows * width), "GB/s", || kernels::add_into(exec, &dy, &mut y));
    let model_width = shape.heads.out_width();
    let ids: Vec<u32> = (0..rows).map(|row| (row * 7919 % shape.vocabulary) as u32).collect();
    let (mut table, mut x) = (values(shape.vocabulary * model_width), values(rows * model_width));
    report("embedding", bytes(2 * x.len()), "GB/s", || kernels::embedding(exec, &table, &ids, &mut x));
    report("embedding_backward", bytes(3 * x.len()), "GB/s", || {
        kernels::embedding_backward(exec, &ids, &x, &mut table);
    });
}

fn loss(exec: Exec<'_>, shape: &Shape) {
    let rows = (4 << 20) / shape.vocabulary;
    let mut logits = values(rows * shape.vocabulary);
    let ids: Vec<u32> = (0..rows).map(|row| (row * 31 % shape.vocabulary) as u32).collect();
    let weights = vec![1.0; rows];
    let targets = kernels::RowTargets { ids: &ids, weights: &weights, scale: 1e-3 };
    let mut losses = vec![0.0; rows];
    report("cross_entropy", bytes(logits.len()), "GB/s", || {
        kernels::cross_entropy(exec, &logits, &ids, &mut losses);
    });
    report("cross_entropy_backward", bytes(2 * logits.len()), "GB/s", || {
        kernels::cross_entropy_backward(exec, &mut logits, targets, &mut losses);
    });
}

fn optimiser(exec: Exec<'_>, shape: &Shape) {
    let len = shape.vocabulary * shape.heads.out_width();
    let (mut weights, gradient) = (values(len), values(len));
    let (mut first_moment, mut second_moment) = (vec![0.0; len], vec![0.0; len]);
    let adamw = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 5,
        gradient_scale: 0.5,
    };
    report("adamw_step", bytes(7 * len), "GB/s", || {
        let state = AdamWState { first_moment: &mut first_moment, second_moment: &mut second_moment };
        kernels::adamw_step(exec, adamw, &mut weights, &gradient, state);
    });
    report("sum_squares", bytes(len), "GB/s", || assert!(kernels::sum_squares(exec, &gradient) > 0.0));
}

/// Counts the products of queries with the keys that they see, and no more.
fn attention(exec: Exec<'_>, shape: &Shape) {
    let heads = shape.heads;
    let (qkv, d_out) = (values(shape.tokens * heads.fused_width()), values(shape.tokens * heads.out_width()));
    let (mut out, mut log_sums) = (d_out.clone(), vec![0.0; shape.tokens * heads.heads]);
    let mut d_qkv = qkv.clone();
    let starts = (0..shape.tokens).step_by(shape.context);
    let documents: Vec<Range<usize>> = starts.map(|start| start..start + shape.context).collect();
    let batch = AttentionBatch {
        qkv: &qkv,
        documents: &documents,
        heads,
        attention: tensor::Attention::causal(heads.head_dim),
    };
    let pairs = documents.len() * heads.heads * shape.context * (shape.context + 1) / 2;
    let product_flops = (pairs * 2 * heads.head_dim) as f64;
    report("attention", 2.0 * product_flops, "GFLOP/s", || {
        kernels::attention_forward(exec, batch, &mut out, &mut log_sums);
    });
    let kept = AttentionKept { out: &out, log_sums: &log_sums };
    report("attention_backward", 5.0 * product_flops, "GFLOP/s", || {
        kernels::attention_backward(exec, batch, kept, &d_out, &mut d_qkv);
    });
}

//! The limits of NVIDIA's graphics processors, measured through their driver and cuBLAS. Both are looked for when this is
//! called, so a program with this in it runs where there is neither; the backend for these processors will stand on the
//! same libraries.

use cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_N;
use cudarc::cublas::{self, CudaBlas, Gemm, GemmConfig};
use cudarc::driver::{self, CudaContext, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};
use half::{bf16, f16};
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Rows and columns of the matrices that are multiplied, where memory allows: large enough for all of a processor.
const SIDE: usize = 8192;
/// The same where memory is short.
const SHORT_SIDE: usize = 2048;
/// Bytes that are copied at once, where memory allows: many times a second-level cache.
const COPIED: usize = 1 << 30;
/// Copies or products that are timed together, so that starting them does not count.
const REPEATS: usize = 8;
/// Measurements, of which the best counts, after one that does not.
const ROUNDS: usize = 5;

/// What a graphics processor reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuLimits {
    /// Bytes read and bytes written of a copy inside its memory together, in GB/s (10⁹ bytes).
    pub copy_gb_per_s: f64,
    /// Products of 16-bit matrices of random numbers.
    pub products: Result<Products, GpuError>,
}

/// How fast large products of matrices are, summed in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Products {
    /// 10¹² operations a second; a multiply-add counts as two.
    pub tflops: f64,
    /// Whether the numbers are bf16; processors before Ampere have f16 only.
    pub is_bf16: bool,
}

/// Why a graphics processor was not measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A library that is not there.
    #[error("{0} is not found where the system looks for libraries (LD_LIBRARY_PATH)")]
    Library(&'static str),
    /// No processor of the name.
    #[error("the driver knows no processor named {wanted}, but: {known}")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The names of all.
        known: String,
    },
    /// What the driver or cuBLAS said.
    #[error("{step}: {said}")]
    Failed {
        /// What was tried.
        step: &'static str,
        /// The answer.
        said: String,
    },
}

/// Measures the first processor that the driver calls `name`. Takes about a second and two gigabytes of its memory, less
/// where less is free.
///
/// # Errors
/// [`GpuError`]: without a driver, without such a processor, or what the driver said.
pub fn measure(name: &str) -> Result<GpuLimits, GpuError> {
    // The bindings panic where a library lacks a function, as a driver that is too old does.
    catch_unwind(AssertUnwindSafe(|| measure_once(name))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        Err(failed("driver")(words.unwrap_or_else(|| "a function is missing".to_owned())))
    })
}

fn measure_once(name: &str) -> Result<GpuLimits, GpuError> {
    // SAFETY: loads the driver's own library, whose initialisers any program that uses it runs.
    if !unsafe { driver::sys::is_culib_present() } {
        return Err(GpuError::Library("libcuda"));
    }
    let context = context(name)?;
    let stream = context.new_stream().map_err(said("making a stream"))?;
    let (free, _) = context.mem_get_info().map_err(said("asking for free memory"))?;
    let copy_gb_per_s = copying(&stream, COPIED.min(free / 8))?;
    let side = if free >= 16 * SIDE * SIDE { SIDE } else { SHORT_SIDE };
    Ok(GpuLimits { copy_gb_per_s, products: products(&context, &stream, side) })
}

/// The first processor of the name.
fn context(name: &str) -> Result<Arc<CudaContext>, GpuError> {
    driver::result::init().map_err(said("starting the driver"))?;
    let count = driver::result::device::get_count().map_err(said("counting processors"))?;
    let mut known = Vec::new();
    for ordinal in 0..count {
        let device = driver::result::device::get(ordinal).map_err(said("asking for a processor"))?;
        let found = driver::result::device::get_name(device).map_err(said("asking for a name"))?;
        if found == name {
            return CudaContext::new(ordinal as usize).map_err(said("opening the processor"));
        }
        known.push(found);
    }
    Err(GpuError::Unknown { wanted: name.to_owned(), known: known.join(", ") })
}

/// GB/s of copies of `bytes` inside the processor's memory, both directions together.
fn copying(stream: &Arc<CudaStream>, bytes: usize) -> Result<f64, GpuError> {
    let zeros = || stream.alloc_zeros::<u8>(bytes).map_err(said("allocating memory"));
    let (from, mut to) = (zeros()?, zeros()?);
    let best = best_seconds(stream, || stream.memcpy_dtod(&from, &mut to).map_err(said("copying")))?;
    Ok(2.0 * bytes as f64 / best / 1e9)
}

fn products(context: &CudaContext, stream: &Arc<CudaStream>, side: usize) -> Result<Products, GpuError> {
    // SAFETY: as for the driver's.
    if !unsafe { cublas::sys::is_culib_present() } {
        return Err(GpuError::Library("libcublas"));
    }
    let blas = CudaBlas::new(stream.clone()).map_err(refused("starting cuBLAS"))?;
    let (major, _) = context.compute_capability().map_err(said("asking for the generation"))?;
    let is_bf16 = major >= 8;
    let best = if is_bf16 {
        multiplying(&blas, stream, side, bf16::from_f32)
    } else {
        multiplying(&blas, stream, side, f16::from_f32)
    }?;
    Ok(Products { tflops: 2.0 * (side as f64).powi(3) / best / 1e12, is_bf16 })
}

/// Seconds of one product. Zeros would flip no bits, draw less power and run faster than what people multiply.
fn multiplying<T>(
    blas: &CudaBlas,
    stream: &Arc<CudaStream>,
    side: usize,
    of: fn(f32) -> T,
) -> Result<f64, GpuError>
where
    T: DeviceRepr + ValidAsZeroBits,
    CudaBlas: Gemm<T>,
{
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        let numbers: Vec<T> = (0..side * side).map(|_| of(uniform(&mut state))).collect();
        stream.clone_htod(&numbers).map_err(said("filling a matrix"))
    };
    let (a, b) = (random()?, random()?);
    let mut c = stream.alloc_zeros::<T>(side * side).map_err(said("allocating a matrix"))?;
    let wide = side as i32;
    best_seconds(stream, || {
        let config = GemmConfig {
            transa: CUBLAS_OP_N,
            transb: CUBLAS_OP_N,
            m: wide,
            n: wide,
            k: wide,
            alpha: of(1.0),
            lda: wide,
            ldb: wide,
            beta: of(0.0),
            ldc: wide,
        };
        // SAFETY: the three matrices have side · side elements.
        unsafe { blas.gemm(config, &a, &b, &mut c) }.map_err(refused("multiplying"))
    })
}

/// A number between -1 and 1.
fn uniform(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The shortest time of what `start` starts, of `ROUNDS` after one that does not count.
fn best_seconds(
    stream: &CudaStream,
    mut start: impl FnMut() -> Result<(), GpuError>,
) -> Result<f64, GpuError> {
    let mut best = f64::INFINITY;
    for round in 0..=ROUNDS {
        stream.synchronize().map_err(said("waiting"))?;
        let begun = Instant::now();
        for _ in 0..REPEATS {
            start()?;
        }
        stream.synchronize().map_err(said("waiting"))?;
        if round > 0 {
            best = best.min(begun.elapsed().as_secs_f64() / REPEATS as f64);
        }
    }
    Ok(best)
}

fn failed(step: &'static str) -> impl Fn(String) -> GpuError {
    move |said| GpuError::Failed { step, said }
}

fn said(step: &'static str) -> impl Fn(DriverError) -> GpuError {
    let text = |found: Result<&CStr, DriverError>| found.map(|text| text.to_string_lossy().into_owned()).ok();
    move |error| {
        let (name, words) = (text(error.error_name()), text(error.error_string()));
        let said: Vec<String> = name.into_iter().chain(words).collect();
        failed(step)(if said.is_empty() { format!("error {}", error.0 as u32) } else { said.join(", ") })
    }
}

fn refused(step: &'static str) -> impl Fn(cublas::result::CublasError) -> GpuError {
    move |error| failed(step)(error.to_string())
}

//! The limits of NVIDIA's graphics processors, measured through their driver and cuBLAS. Both are looked for when this is
//! called, so a program with this in it runs where there is neither; the backend for these processors will stand on the
//! same libraries. Must not know what any processor should reach.

use cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_N;
use cudarc::cublas::{self, CudaBlas, Gemm, GemmConfig};
use cudarc::driver::sys::CUresult::CUDA_ERROR_NO_DEVICE;
use cudarc::driver::{self, CudaContext, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};
use half::{bf16, f16};
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Rows and columns of the matrices that are multiplied: large enough for all of a processor.
const SIDE: usize = 8192;
/// The same where less than [`PLENTY`] is free.
const SHORT_SIDE: usize = 4096;
/// Bytes of free memory from which matrices are large.
const PLENTY: usize = 4 << 30;
/// Bytes of free memory below which nothing is measured: what fits would lie in caches, or take no longer than its start.
const LEAST_FREE: usize = 2 << 30;
/// The part of its memory that is free where nobody else works on a processor.
const IDLE_FREE: f64 = 0.75;
/// The most bytes that are copied at once: many times a second-level cache.
const COPIED: usize = 1 << 30;
/// Copies or products that are timed together, so that starting them does not count.
const REPEATS: usize = 8;
/// Seconds of work before any counts, and seconds that count: clocks settle at what power allows.
const WARM_UP: f64 = 0.3;
const MEASURED: f64 = 0.7;

/// What a graphics processor reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuLimits {
    /// How many of its name the driver shows to this program.
    pub shown: usize,
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
    #[error("the driver shows this program no processor named {wanted}, but: {known}")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The names of all, or that there is none.
        known: String,
    },
    /// One that others work on, or that has hardly any memory.
    #[error(
        "of its {total_bytes} bytes of memory {free_bytes} are free: others use it, or it is too small to tell"
    )]
    Busy {
        /// Free memory.
        free_bytes: usize,
        /// All memory.
        total_bytes: usize,
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

/// Measures that processor of those which the driver calls `name` that has the most free memory. Takes a few seconds and up
/// to two gigabytes of its memory.
///
/// # Errors
/// [`GpuError`]: without a driver, without such a processor, where others use it, or what the driver said.
pub fn measure(name: &str) -> Result<GpuLimits, GpuError> {
    without_panic("the driver", || {
        // SAFETY: loads the driver's own library, whose initialisers any program that uses it runs.
        if !unsafe { driver::sys::is_culib_present() } {
            return Err(GpuError::Library("libcuda"));
        }
        let Chosen { context, free, shown } = choose(name)?;
        let stream = context.new_stream().map_err(said("making a stream"))?;
        let copy_gb_per_s = copying(&stream, COPIED.min(free / 8))?;
        let side = if free >= PLENTY { SIDE } else { SHORT_SIDE };
        let products = without_panic("cuBLAS", || products(&context, &stream, side));
        Ok(GpuLimits { shown, copy_gb_per_s, products })
    })
}

/// The bindings panic where a library lacks a function, as one that is too old does.
fn without_panic<T>(step: &'static str, body: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let said = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(words), _) => words.clone(),
            (_, Some(words)) => (*words).to_owned(),
            _ => "it broke off".to_owned(),
        };
        Err(GpuError::Failed { step, said })
    })
}

/// The processor that is measured.
struct Chosen {
    context: Arc<CudaContext>,
    /// Bytes.
    free: usize,
    /// How many of its name there are.
    shown: usize,
}

/// The processor of the name with the most free memory.
fn choose(name: &str) -> Result<Chosen, GpuError> {
    let unknown = |known: &[String]| GpuError::Unknown {
        wanted: name.to_owned(),
        known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
    };
    driver::result::init().map_err(|error| match error.0 {
        CUDA_ERROR_NO_DEVICE => unknown(&[]),
        _ => said("starting the driver")(error),
    })?;
    let count = driver::result::device::get_count().map_err(said("counting processors"))?;
    let (mut known, mut best, mut trouble) = (Vec::new(), None, None);
    for ordinal in 0..count {
        let device = driver::result::device::get(ordinal).map_err(said("asking for a processor"))?;
        known.push(driver::result::device::get_name(device).map_err(said("asking for a name"))?);
        if known[known.len() - 1] != name {
            continue;
        }
        match opened(ordinal as usize) {
            Ok(other) if best.as_ref().is_none_or(|(_, free, _)| other.1 > *free) => best = Some(other),
            Ok(_) => {}
            Err(error) => trouble = Some(error),
        }
    }
    let (context, free, total) = best.ok_or_else(|| trouble.unwrap_or_else(|| unknown(&known)))?;
    if free < LEAST_FREE || (free as f64) < IDLE_FREE * total as f64 {
        return Err(GpuError::Busy { free_bytes: free, total_bytes: total });
    }
    // The last that was opened is another, perhaps.
    context.bind_to_thread().map_err(said("opening the processor"))?;
    Ok(Chosen { context, free, shown: known.iter().filter(|known| *known == name).count() })
}

/// A processor with its free memory and all of its memory.
fn opened(ordinal: usize) -> Result<(Arc<CudaContext>, usize, usize), GpuError> {
    let context = CudaContext::new(ordinal).map_err(said("opening the processor"))?;
    let (free, total) = context.mem_get_info().map_err(said("asking for free memory"))?;
    Ok((context, free, total))
}

/// GB/s of copies of `bytes` inside the processor's memory, both directions together.
fn copying(stream: &Arc<CudaStream>, bytes: usize) -> Result<f64, GpuError> {
    let zeros = || stream.alloc_zeros::<u8>(bytes).map_err(said("allocating memory"));
    let (from, mut to) = (zeros()?, zeros()?);
    let seconds = seconds_of(stream, || stream.memcpy_dtod(&from, &mut to).map_err(said("copying")))?;
    Ok(2.0 * bytes as f64 / seconds / 1e9)
}

fn products(context: &CudaContext, stream: &Arc<CudaStream>, side: usize) -> Result<Products, GpuError> {
    // SAFETY: as for the driver's.
    if !unsafe { cublas::sys::is_culib_present() } {
        return Err(GpuError::Library("libcublas"));
    }
    let blas = CudaBlas::new(stream.clone())
        .map_err(refused("starting cuBLAS, which may be newer than the driver"))?;
    let (major, _) = context.compute_capability().map_err(said("asking for the generation"))?;
    let is_bf16 = major >= 8;
    let seconds = if is_bf16 {
        multiplying(&blas, stream, side, bf16::from_f32)
    } else {
        multiplying(&blas, stream, side, f16::from_f32)
    }?;
    Ok(Products { tflops: 2.0 * (side as f64).powi(3) / seconds / 1e12, is_bf16 })
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
        let matrix = stream.clone_htod(&numbers).map_err(said("filling a matrix"))?;
        // The numbers are read until then.
        stream.synchronize().map_err(said("filling a matrix"))?;
        Ok(matrix)
    };
    let (a, b) = (random()?, random()?);
    let mut c = stream.alloc_zeros::<T>(side * side).map_err(said("allocating a matrix"))?;
    let wide = side as i32;
    seconds_of(stream, || {
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

/// The usual time of what `start` starts, once clocks have settled: the median of many rounds.
fn seconds_of(stream: &CudaStream, mut start: impl FnMut() -> Result<(), GpuError>) -> Result<f64, GpuError> {
    let mut round = || {
        stream.synchronize().map_err(said("waiting"))?;
        let begun = Instant::now();
        for _ in 0..REPEATS {
            start()?;
        }
        stream.synchronize().map_err(said("waiting"))?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let mut for_seconds = |least: f64| {
        let (mut all, mut total) = (Vec::new(), 0.0);
        while total < least || all.is_empty() {
            all.push(round()?);
            total += all[all.len() - 1];
        }
        Ok::<_, GpuError>(all)
    };
    for_seconds(WARM_UP)?;
    let mut rounds = for_seconds(MEASURED)?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2] / REPEATS as f64)
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

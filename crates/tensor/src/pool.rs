//! The one pool of compute threads: hands the tasks of a kernel to its threads and waits for the last one.
//! Must not know any kernel. Nothing else in the workspace spawns threads for arithmetic.
#![allow(unsafe_code)]

use crate::Scratch;
use crate::simd::prefetch_second_level;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps: longer than the gap between two kernels of a training step,
/// far shorter than anything a person or a power meter notices.
const SPIN: Duration = Duration::from_micros(60);

/// The most that a waiting worker fetches: a part of a second-level cache.
const AHEAD_BYTES: usize = 384 << 10;

/// A fixed set of threads (the caller of [`run`](Pool::run) is one of them) which spin for a moment between kernels
/// and then sleep. Several threads may call `run` at once: they take turns.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the one caller whose job is running.
    turn: Mutex<()>,
    scratch: Scratch,
}

/// A kernel's body: called with (task, thread).
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the threads share. `state` holds the job's number above `NUMBER_SHIFT`, whether it is open, and below that
/// how many workers are in it. A job's fields are written only while it is closed and nobody is in it.
struct Shared {
    state: Line<AtomicU64>,
    next_task: Line<AtomicUsize>,
    tasks: AtomicUsize,
    body: UnsafeCell<Option<*const Body<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: Line<AtomicUsize>,
    bed: Mutex<()>,
    alarm: Condvar,
    stop: AtomicBool,
    spin: Duration,
    /// For each worker, where what it will read next begins, and how many bytes there are.
    ahead: Vec<Line<(AtomicUsize, AtomicUsize)>>,
}

/// Keeps what two threads write apart, so that they do not fight over one cache line (two lines: prefetchers pair them).
#[repr(align(128))]
struct Line<T>(T);

const OPEN: u64 = 1 << 31;
const NUMBER_SHIFT: u32 = 32;
const WORKERS_MASK: u64 = OPEN - 1;

// SAFETY: `body` is written by the caller that holds `turn` while the job is closed and nobody is in it, and read by
// workers that entered the open job (an acquiring exchange on `state` after the caller's release).
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer is used only during the call that lent it.
unsafe impl Send for Shared {}

thread_local! {
    /// This thread's number in the job that it is working on, if it is in one.
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Pool {
    /// A pool of `threads` threads including the caller's (at least one; 0 counts as 1).
    pub fn new(threads: usize) -> Pool {
        let threads = threads.max(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next_task: Line(AtomicUsize::new(0)),
            tasks: AtomicUsize::new(0),
            body: UnsafeCell::new(None),
            panic: Mutex::new(None),
            sleepers: Line(AtomicUsize::new(0)),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            stop: AtomicBool::new(false),
            // A thread that spins on a core which another needs holds everybody up.
            spin: if threads <= cores { SPIN } else { Duration::ZERO },
            ahead: (1..threads).map(|_| Line(Default::default())).collect(),
        });
        let workers = (1..threads)
            .map(|thread| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("tensor-{thread}"))
                    .spawn(move || shared.work(thread))
                    .expect("the operating system grants the pool its threads")
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(()), scratch: Scratch::default() }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Work space for kernels.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Says what the products that come next will read, in their order, so that a worker which waits can fetch the beginning of
    /// its share into its caches meanwhile. Nothing depends on it.
    pub fn foresee(&self, parts: &[&[u8]]) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        for (index, Line((at, length))) in self.shared.ahead.iter().enumerate() {
            let mut offset = total / self.threads() * (index + 1);
            for part in parts {
                if offset < part.len() {
                    at.store(part[offset..].as_ptr().addr(), Ordering::Relaxed);
                    length.store((part.len() - offset).min(AHEAD_BYTES), Ordering::Relaxed);
                    break;
                }
                offset -= part.len();
            }
        }
    }

    /// Calls `body(task, thread)` once for every task in `0..tasks`, in no particular order, on all threads
    /// (`thread` < [`threads`](Pool::threads), and no two calls at the same time share one), and returns when all are
    /// done. Called from within a task it runs the tasks one after another on the same thread. Allocates nothing.
    ///
    /// # Panics
    /// A panic in a task is passed on to the caller, after the other threads have left the job; tasks that had not
    /// begun are not run.
    pub fn run(&self, tasks: usize, body: &Body<'_>) {
        if let Some(thread) = THREAD.get() {
            (0..tasks).for_each(|task| body(task, thread));
            return;
        }
        if tasks <= 1 || self.workers.is_empty() {
            // Alone, but in turn: `thread` 0 must be nobody else's for as long as the body runs.
            let _turn = lock(&self.turn);
            let _seat = Seat::take(0);
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let turn = lock(&self.turn);
        self.shared.open(tasks, body);
        self.shared.take_tasks(0);
        self.shared.close();
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Splits `0..length` into pieces of `grain` (the last one may be shorter) and calls `body(range, thread)` for each.
    pub fn run_ranges(&self, length: usize, grain: usize, body: &(dyn Fn(Range<usize>, usize) + Sync)) {
        let grain = grain.max(1);
        self.run(length.div_ceil(grain), &|task, thread| {
            let start = task * grain;
            body(start..(start + grain).min(length), thread);
        });
    }

    /// Splits `data` into pieces of `grain` values (the last one may be shorter) and calls `body(piece's first index,
    /// piece, thread)` for each: the safe way for a kernel to write its output in parallel.
    pub fn run_slices<T: Send>(
        &self,
        data: &mut [T],
        grain: usize,
        body: &(dyn Fn(usize, &mut [T], usize) + Sync),
    ) {
        let length = data.len();
        let pieces = Disjoint::new(data);
        self.run_ranges(length, grain, &|range, thread| {
            // SAFETY: the ranges of one `run_ranges` do not overlap and lie within the length.
            let piece = unsafe { pieces.range(range.clone()) };
            body(range.start, piece, thread);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.bed));
        self.shared.alarm.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so joining it cannot fail.
            let _ = worker.join();
        }
    }
}

/// A mutable slice that several threads write at once, each its own part.
pub struct Disjoint<'a, T> {
    pointer: *mut T,
    length: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the parts handed out do not overlap (the contract of `range`), so this is sending `&mut [T]`s.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice for as long as parts of it are lent.
    pub fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { pointer: slice.as_mut_ptr(), length: slice.len(), slice: std::marker::PhantomData }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No two parts alive at the same time overlap.
    ///
    /// # Panics
    /// The range is not within the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "a part lies within its slice");
        // SAFETY: within the slice, and the caller promises that no other part overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}

impl Shared {
    /// Publishes a job and wakes who sleeps. The caller holds the turn, so the last job is closed and empty.
    fn open(&self, tasks: usize, body: &Body<'_>) {
        let body: *const Body<'_> = body;
        // SAFETY: nobody is in a job, so nobody reads the cell. The lifetime is erased; `close` waits for every worker
        // to leave before the borrow ends.
        unsafe {
            *self.body.get() = Some(std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body));
        }
        self.tasks.store(tasks, Ordering::Relaxed);
        self.next_task.0.store(0, Ordering::Relaxed);
        let number = (self.state.0.load(Ordering::Relaxed) >> NUMBER_SHIFT) + 1;
        // Sequentially consistent with a sleeper's count-then-look: either it sees the job or we see it asleep.
        self.state.0.store((number << NUMBER_SHIFT) | OPEN, Ordering::SeqCst);
        if self.sleepers.0.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.bed));
            self.alarm.notify_all();
        }
    }

    /// Lets nobody else in and waits until all are out.
    fn close(&self) {
        let mut state = self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0_u32;
        while state & WORKERS_MASK != 0 {
            spins += 1;
            if self.spin.is_zero() || spins > 2000 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
            state = self.state.0.load(Ordering::Acquire);
        }
    }

    /// Takes tasks until none is left. A panic is kept for the caller and ends the job.
    fn take_tasks(&self, thread: usize) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        // SAFETY: the job is open or this thread is in it, so the body is set and its borrow alive.
        let body = unsafe { &*(*self.body.get()).expect("an open job has a body") };
        let _seat = Seat::take(thread);
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next_task.0.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                body(task, thread);
            }
        }));
        if let Err(payload) = result {
            self.next_task.0.store(tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// A worker's life: wait for a job, enter it, take tasks, leave.
    fn work(&self, thread: usize) {
        let (mut last_job, mut ahead) = (0, Ahead::default());
        while let Some(state) = self.wait_for_job(last_job, ahead.renewed(&self.ahead[thread - 1].0)) {
            let entered =
                self.state.0.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed);
            if entered.is_ok() {
                last_job = state >> NUMBER_SHIFT;
                self.take_tasks(thread);
                self.state.0.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Spins, then sleeps, until a job newer than `last_job` is open (its state) or the pool stops (`None`).
    fn wait_for_job(&self, last_job: u64, ahead: &mut Ahead) -> Option<u64> {
        let is_new = |state: u64| state & OPEN != 0 && state >> NUMBER_SHIFT != last_job;
        let begun = Instant::now();
        loop {
            for _ in 0..32 {
                let state = self.state.0.load(Ordering::Acquire);
                if is_new(state) {
                    return Some(state);
                }
                if !ahead.fetch() {
                    std::hint::spin_loop();
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if begun.elapsed() >= self.spin {
                break;
            }
        }
        let mut bed = lock(&self.bed);
        self.sleepers.0.fetch_add(1, Ordering::SeqCst);
        let job = loop {
            let state = self.state.0.load(Ordering::SeqCst);
            if is_new(state) {
                break Some(state);
            }
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.0.fetch_sub(1, Ordering::SeqCst);
        job
    }
}

/// What a worker fetches while it waits: addresses alone, which nobody reads through.
#[derive(Default)]
struct Ahead {
    begin: usize,
    at: usize,
    end: usize,
}

impl Ahead {
    /// Itself, from the beginning where something else comes next by now.
    fn renewed(&mut self, (at, length): &(AtomicUsize, AtomicUsize)) -> &mut Ahead {
        let begin = at.load(Ordering::Relaxed);
        if begin != self.begin {
            *self = Ahead { begin, at: begin, end: begin.saturating_add(length.load(Ordering::Relaxed)) };
        }
        self
    }

    /// Asks for some lines more; false where there are none.
    fn fetch(&mut self) -> bool {
        if self.at >= self.end {
            return false;
        }
        for line in 0..4 {
            prefetch_second_level(std::ptr::without_provenance(self.at + 64 * line));
        }
        self.at += 4 * 64;
        true
    }
}

/// Marks this thread as being in a job, also while a panic unwinds.
struct Seat;

impl Seat {
    fn take(thread: usize) -> Seat {
        THREAD.set(Some(thread));
        Seat
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        THREAD.set(None);
    }
}

/// No data behind these locks can be left half-changed, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 7, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, thread| {
                    assert!(thread < pool.threads());
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_from_several_callers() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let sum = AtomicUsize::new(0);
                        pool.run(round % 9, &|task, _| {
                            sum.fetch_add(task + 1, Ordering::Relaxed);
                        });
                        let n = round % 9;
                        assert_eq!(sum.into_inner(), n * (n + 1) / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn workers_wake_after_sleeping() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_micros(300));
            let both = AtomicUsize::new(0);
            pool.run(8, &|_, _| {
                both.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(both.into_inner(), 8);
        }
    }

    #[test]
    fn no_two_tasks_share_a_thread_number_at_once() {
        let pool = Pool::new(4);
        let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        pool.run(200, &|_, thread| {
            assert!(!busy[thread].swap(true, Ordering::SeqCst));
            std::thread::yield_now();
            busy[thread].store(false, Ordering::SeqCst);
        });
    }

    #[test]
    fn nested_runs_stay_on_their_thread() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        pool.run(4, &|_, outer| {
            pool.run(5, &|_, inner| {
                assert_eq!(outer, inner);
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            for bad in [0, 7] {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(8, &|task, _| assert!(task != bad, "task {task} fails"));
                }));
                let payload = result.unwrap_err();
                assert_eq!(*payload.downcast::<String>().unwrap(), format!("task {bad} fails"));
                let count = AtomicUsize::new(0);
                pool.run(8, &|_, _| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(count.into_inner(), 8);
            }
        }
    }

    #[test]
    fn waiting_workers_fetch_their_own_share_once() {
        let pool = Pool::new(3);
        let (first, last) = (vec![0; 100], vec![0; 2 * AHEAD_BYTES]);
        pool.foresee(&[&first, &[], &last]);
        let place = |worker: usize| {
            let (at, length) = &pool.shared.ahead[worker].0;
            (at.load(Ordering::Relaxed), length.load(Ordering::Relaxed))
        };
        let third = (100 + last.len()) / 3;
        assert_eq!(place(0), (last[third - 100..].as_ptr().addr(), AHEAD_BYTES));
        assert_eq!(place(1), (last[2 * third - 100..].as_ptr().addr(), 100 + last.len() - 2 * third));
        // As far as that and no further, and not again unless something else comes.
        let mut ahead = Ahead::default();
        assert!(!ahead.fetch());
        let fetches =
            |ahead: &mut Ahead| std::iter::repeat_with(|| ahead.fetch()).take_while(|more| *more).count();
        assert_eq!(fetches(ahead.renewed(&pool.shared.ahead[0].0)), AHEAD_BYTES / 256);
        assert_eq!(fetches(ahead.renewed(&pool.shared.ahead[0].0)), 0);
        pool.foresee(&[&first]);
        assert_eq!(fetches(ahead.renewed(&pool.shared.ahead[0].0)), 1);
        // Nothing to foresee changes nothing.
        pool.foresee(&[]);
        assert_eq!(place(0).0, first[33..].as_ptr().addr());
    }

    #[test]
    fn slices_are_disjoint_and_whole() {
        let pool = Pool::new(2);
        for length in [0, 1, 5, 99, 100, 101] {
            let mut data = vec![0_usize; length];
            pool.run_slices(&mut data, 10, &|first, piece, _| {
                for (i, value) in piece.iter_mut().enumerate() {
                    *value += first + i + 1;
                }
            });
            assert!(data.iter().enumerate().all(|(i, value)| *value == i + 1));
        }
    }
}

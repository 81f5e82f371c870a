//! Memory holds one block and the activations, however large the model. The allocator counts; pages of the mapped
//! source are the system's to keep or drop.
// Helpers outside of test functions are test code too.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use support::{Shape, stub::Stub};
use treillage_gptq::{Format, Rotation, ScaleRule, Solver};
use treillage_quantize::{
    AllocationRule, GptqOptions, HeadBits, Options, RotationRule, TrellisOptions, quantize,
};

/// The system's allocator, with a count of the bytes in use.
struct Counting;

/// Held by each test: what one allocates is not the other's.
static ALONE: Mutex<()> = Mutex::new(());

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peak of the bytes allocated while a model of so many blocks was quantized, and the size of its file.
fn peak(blocks: usize, options: &Options) -> (usize, usize) {
    let shape = Shape {
        hidden: 256,
        blocks,
        dense: vec![0],
        experts: 4,
        intermediate: 512,
        vocabulary: 256,
        tied: false,
    };
    let (peak, file, _) = quantized(&shape, options);
    (peak, file)
}

/// The same of a model of `shape`, and the bytes of what it became.
fn quantized(shape: &Shape, options: &Options) -> (usize, usize, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(ROWS, COLS);
    let file = fs::metadata(source.join("model.safetensors"))
        .unwrap()
        .len();
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let out = dir.path().join("out");
    quantize(
        &Stub::default(),
        &source,
        &out,
        &tokens,
        options,
        &mut |_| (),
    )
    .unwrap();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let written = fs::read(out.join("model.safetensors")).unwrap();
    (peak, file as usize, written)
}

const ROWS: usize = 4;
const COLS: usize = 64;

#[test]
fn memory_can_be_limited_and_the_result_is_the_same() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Many experts that read wide inputs and have narrow insides.
    let shape = Shape {
        hidden: 512,
        blocks: 2,
        dense: vec![0],
        experts: 24,
        intermediate: 128,
        vocabulary: 256,
        tied: false,
    };
    for allocation in [AllocationRule::Position, AllocationRule::Sensitivity] {
        let options = Options::trellis(TrellisOptions {
            allocation,
            head_bits: HeadBits::Keep,
            ..TrellisOptions::default()
        });
        let (whole, _, unlimited) = quantized(&shape, &options);
        let limit = whole * 2 / 3;
        let limited = Options {
            memory: Some(limit as u64),
            ..options
        };
        let (peak, _, written) = quantized(&shape, &limited);
        println!("{peak} bytes in use instead of {whole}, at most {limit}");
        assert!(peak <= limit, "{peak} bytes in use, more than {limit}");
        assert!(written == unlimited);
    }
}

#[test]
fn memory_is_one_block_and_the_activations() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Weights of a block in f32, while they are encoded.
    let weights = 4 * (4 * 3 * 256 * 512 + 2 * 256 * 128 + 2 * 256 * 64);
    // Per expert a Hessian at either width: as it is gathered, its rows that wait for that, drawn toward the layer's,
    // its mean.
    let hessians = 4 * 4 * 4 * (256 * 256 + 512 * 512);
    let activations = 4 * ROWS * COLS * 256;
    let bound = weights + hessians + activations;

    // The survey of sensitivities has a bound of its own, which is no multiple of a block.
    let trellis = Options::trellis(TrellisOptions {
        allocation: AllocationRule::Position,
        head_bits: HeadBits::Keep,
        ..TrellisOptions::default()
    });
    // Folded blocks are in memory, in 16 bits, and not in the mapped file. Rounding is what takes least time.
    let folded = Options::mr_gptq(GptqOptions {
        rotation: RotationRule::Fixed(Rotation::Block(64)),
        solver: Solver::Rtn,
        scales: ScaleRule::Minmax,
        ..GptqOptions::new(Format::NvFp4)
    });
    for (options, bound) in [(trellis, bound), (folded, bound + weights / 2)] {
        // One thread, which after the first run has the workspaces that libraries keep for each.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let ((small, _), (large, file)) = pool.unwrap().install(|| {
            peak(1, &options);
            (peak(3, &options), peak(40, &options))
        });
        println!("{large} bytes in use for a model of {file}");
        assert!(
            file > 4 * bound,
            "{file} bytes say little about a bound of {bound}"
        );
        assert!(large < bound, "{large} bytes in use, more than {bound}");
        assert!(
            large < small + small / 10,
            "{large} bytes for 40 blocks, {small} for 3"
        );
    }
}

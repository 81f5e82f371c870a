//! What the backend is built on: memory, kernels, the order of recorded work, profiles.

use treillage_backend::Inference;
use treillage_gpu::{
    Adapters, Arena, Error, Features, Gpu, GpuBackend, Mode, Options, Pipeline, Recorder, Slabs,
    Slice,
};

use crate::support::open_alone as open;

fn each_mode(test: impl Fn(&Gpu)) {
    for mode in [Mode::Checked, Mode::Trusted] {
        let options = Options {
            mode,
            ..Options::default()
        };
        if let Some(gpu) = open(options) {
            test(&gpu);
        }
    }
}

/// `out = a + b`.
fn add(gpu: &Gpu) -> Pipeline {
    let source = treillage_shaders::compose("add", &[("WG", "64")]).unwrap();
    gpu.pipeline("add", &source, &[]).unwrap()
}

fn floats(slice: &Slice, recorder: &Recorder) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&recorder.read(slice).unwrap())
}

#[test]
fn recorded_work_runs_in_order() {
    each_mode(|gpu| {
        let recorder = Recorder::new(gpu);
        let add = add(gpu);
        let [a, b, c] = [(); 3].map(|()| gpu.buffer("numbers", 400).unwrap().slice());
        let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
        recorder.write(&a, bytemuck::cast_slice(&values));
        recorder.write(&b, bytemuck::cast_slice(&[1f32; 100]));
        let count = 100u32.to_le_bytes();
        recorder.dispatch(&add, &[&a, &b, &c], &count, [2, 1, 1]);
        // A write between two kernels is seen by the second only.
        recorder.write(&b, bytemuck::cast_slice(&[1000f32; 100]));
        recorder.dispatch(&add, &[&c, &b, &a], &count, [2, 1, 1]);
        let expected: Vec<f32> = values.iter().map(|x| x + 1001.0).collect();
        assert_eq!(floats(&a, &recorder), expected);
        let first: Vec<f32> = values.iter().map(|x| x + 1.0).collect();
        assert_eq!(floats(&c, &recorder), first);
        let counts = recorder.counts();
        assert_eq!((counts.dispatches, counts.submissions), (2, 2));
    });
}

#[test]
fn a_repeated_step_runs_in_the_same_memory() {
    each_mode(|gpu| {
        let recorder = Recorder::new(gpu);
        let arena = Arena::new(gpu);
        let add = add(gpu);
        let mut after_first = None;
        for _ in 0..5 {
            let x = arena.lend(4000).unwrap();
            let mut y = arena.lend(4000).unwrap();
            for _ in 0..7 {
                let z = arena.lend(4000).unwrap();
                let slices = [x.range(0, 4000), y.range(0, 4000), z.range(0, 4000)];
                let slices = [&slices[0], &slices[1], &slices[2]];
                recorder.dispatch(&add, &slices, &1000u32.to_le_bytes(), [16, 1, 1]);
                // What `y` was is lent again by the next round.
                y = z;
            }
            recorder.submit();
            let seen = (recorder.counts().bind_groups, arena.bytes());
            assert_eq!(*after_first.get_or_insert(seen), seen);
        }
        assert_eq!(arena.bytes(), 3 * 4096);
        arena.trim();
        assert_eq!(arena.bytes(), 0);
    });
}

#[test]
fn uploads_arrive_whole() {
    each_mode(|gpu| {
        let recorder = Recorder::new(gpu);
        let slabs = Slabs::new(gpu);
        let odd: Vec<u8> = (0..1001).map(|i| i as u8).collect();
        let first = slabs.put("odd", &odd).unwrap();
        let large: Vec<u8> = (0..20 << 20).map(|i: u32| (i % 251) as u8).collect();
        let second = slabs.put("large", &large).unwrap();
        let third = slabs.cut("filled", 3 << 20).unwrap();
        gpu.upload_with(&third, 0, 3 << 20, 12, |at, piece| {
            assert!(at % 12 == 0);
            for (i, byte) in piece.iter_mut().enumerate() {
                *byte = ((at + i) / 12) as u8;
            }
        })
        .unwrap();
        assert_eq!(recorder.read(&first).unwrap()[..1001], odd);
        assert!(recorder.read(&second).unwrap() == large);
        let filled = recorder.read(&third).unwrap();
        assert!(filled.iter().enumerate().all(|(i, &b)| b == (i / 12) as u8));
        assert_eq!(slabs.bytes(), (1 << 20) + (20 << 20) + (3 << 20));
    });
}

#[test]
fn compiled_kernels_are_found_again() {
    let Some(adapter) = crate::support::adapter() else {
        return;
    };
    let options = Options::default();
    if !adapter.features().contains(Features::PIPELINE_CACHE) {
        eprintln!("skipped: the driver keeps kernels by itself, or not at all");
        return;
    }
    let folder = std::env::temp_dir().join(format!("treillage-kernels-{}", std::process::id()));
    // In a folder that is not there yet, and from then on in what was left.
    let run = || {
        let gpu = Gpu::open_cached(&adapter, options, &folder).unwrap();
        let recorder = Recorder::new(&gpu);
        let [a, b, c] = [(); 3].map(|()| gpu.buffer("numbers", 400).unwrap().slice());
        recorder.write(&a, bytemuck::cast_slice(&[2f32; 100]));
        recorder.write(&b, bytemuck::cast_slice(&[3f32; 100]));
        let count = 100u32.to_le_bytes();
        recorder.dispatch(&add(&gpu), &[&a, &b, &c], &count, [2, 1, 1]);
        assert_eq!(floats(&c, &recorder), [5.0; 100]);
        gpu.cached()
    };
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(&folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!(run(), 0);
    let [file] = &files()[..] else {
        panic!("one file: {:?}", files()); // this is a test
    };
    assert!(run() > 0);
    let mut bytes = std::fs::read(file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(file, &bytes).unwrap();
    assert_eq!(run(), 0, "damaged");
    assert!(run() > 0, "replaced");
    assert_eq!(files().len(), 1);
    // A folder that is a file: nothing is kept, and nothing fails.
    let nowhere = Gpu::open_cached(&adapter, options, file).unwrap();
    assert!(add(&nowhere).bindings() == 3 && nowhere.cached() == 0);
    drop(nowhere);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn faults_are_errors_that_say_what_to_do() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let error = gpu.pipeline("broken", "fn main( {", &[]).unwrap_err();
    assert!(matches!(&error, Error::Kernel { kernel, .. } if kernel == "broken"));
    let buffers: String = (0..9)
        .map(|i| format!("@group(0) @binding({i}) var<storage, read> b{i}: array<u32>;\n"))
        .collect();
    let error = gpu.pipeline("wide", &buffers, &[]).unwrap_err();
    assert!(error.to_string().contains("at most 8"), "{error}");
    let most = gpu.limits().max_compute_workgroup_storage_size;
    let greedy = format!(
        "var<workgroup> all: array<u32, {}>;\n@compute @workgroup_size(1) fn main() {{ all[0] = 1u; }}",
        most / 4 + 1
    );
    let error = gpu.pipeline("greedy", &greedy, &[]).unwrap_err();
    let expected = format!("bytes of workgroup memory, the device has {most}");
    assert!(error.to_string().ends_with(&expected), "{error}");
    let limit = gpu.max_binding();
    let error = gpu.buffer("everything", limit + 4).unwrap_err();
    assert!(error.to_string().starts_with("everything takes"), "{error}");
    assert!(
        gpu.check().is_ok(),
        "what was returned is not reported again"
    );

    let recorder = Recorder::new(&gpu);
    let slice = gpu.buffer("one", 256).unwrap().slice();
    // A kernel that writes what it reads is refused, and the next read tells.
    recorder.dispatch(&add(&gpu), &[&slice, &slice, &slice], &[0; 4], [1, 1, 1]);
    assert!(matches!(recorder.read(&slice), Err(Error::Refused(_))));
}

#[test]
fn a_lost_device_is_an_error_wherever_it_is_noticed() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let backend = GpuBackend::on(&gpu).unwrap();
    let x = backend.upload(&[1.0; 8], 4).unwrap();
    assert_eq!(backend.read(&x).unwrap(), [1.0; 8]);
    let recorder = Recorder::new(&gpu);
    let [a, b, c] = [(); 3].map(|()| gpu.buffer("numbers", 400).unwrap().slice());
    let add = add(&gpu);
    recorder.dispatch(&add, &[&a, &b, &c], &[0; 4], [1, 1, 1]);
    gpu.device().destroy();
    let error = recorder.read(&c).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("run again") && text.contains("update its driver"));
    // It stays lost.
    recorder.dispatch(&add, &[&a, &b, &c], &[0; 4], [1, 1, 1]);
    assert!(matches!(recorder.read(&c), Err(Error::Lost(_))));
    assert!(matches!(gpu.buffer("more", 400), Err(Error::Lost(_))));
    assert!(matches!(gpu.upload(&a, 0, &[0; 4]), Err(Error::Lost(_))));
    assert!(matches!(gpu.wait(), Err(Error::Lost(_))));
    let error = backend.read(&x).unwrap_err().to_string();
    assert!(error.contains("the device is lost"), "{error}");
    let linear = backend.load_norm(vec![1.0; 4], 1e-6);
    assert!(
        linear
            .unwrap_err()
            .to_string()
            .contains("the device is lost")
    );
}

#[test]
fn memory_that_is_not_there_is_an_error_and_what_was_there_is_given_back() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    if gpu.is_software() {
        eprintln!("skipped: the system lends a driver on the CPU more memory than there is");
        return;
    }
    let size = gpu.max_binding();
    let mut held = Vec::new();
    let error = loop {
        match gpu.buffer("far too much", size) {
            Ok(buffer) => held.push(buffer),
            Err(error) => break error,
        }
        assert!(held.len() < 4096, "the device has no end");
    };
    assert!(
        matches!(&error, Error::OutOfMemory { what, bytes } if what == "far too much" && *bytes == size),
        "{error}"
    );
    held.clear();
    gpu.wait().unwrap();
    gpu.buffer("what there was", size).unwrap();
}

#[test]
fn an_adapter_that_is_not_there_is_an_error() {
    let adapters = Adapters::find();
    let error = adapters.get(999).unwrap_err();
    match adapters.iter().len() {
        0 => assert!(matches!(error, Error::NoAdapter)),
        count => {
            assert!(matches!(error, Error::NoSuchAdapter { index: 999, count: c } if c == count));
        }
    }
    let text = error.to_string();
    assert!(text.contains("--device cpu") || text.contains("treillage devices"));
}

#[test]
fn profiles_count_what_ran() {
    let Some(gpu) = open(Options {
        profile: true,
        ..Options::default()
    }) else {
        return;
    };
    let recorder = Recorder::new(&gpu);
    let add = add(&gpu);
    let [a, b, c] = [(); 3].map(|()| gpu.buffer("numbers", 4096).unwrap().slice());
    // More than are timed between two submissions, and as many untimed.
    for timed in [false, true] {
        recorder.time_kernels(timed);
        for _ in 0..1500 {
            recorder.dispatch(&add, &[&a, &b, &c], &1024u32.to_le_bytes(), [16, 1, 1]);
        }
    }
    let Some(profile) = recorder.take_profile() else {
        eprintln!("skipped: the device has no clock");
        return;
    };
    let (name, kernel) = profile.kernels().next().unwrap();
    assert_eq!((name, kernel.dispatches), ("add", 1500));
    assert_eq!(kernel.work.bytes, 1500 * 3 * 4096);
    assert!(kernel.time.as_nanos() > 0 && kernel.bandwidth() > 0.0);
    assert_eq!(profile.time(), kernel.time);
    assert!(recorder.take_profile().unwrap().kernels().next().is_none());
}

#[test]
fn memory_counts_while_it_is_held() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let before = gpu.allocated();
    let buffer = gpu.buffer("numbers", 4096).unwrap();
    let slice = buffer.range(0, 256);
    drop(buffer);
    assert_eq!(gpu.allocated(), before + 4096);
    drop(slice);
    assert_eq!(gpu.allocated(), before);
}

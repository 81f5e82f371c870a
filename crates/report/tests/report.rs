//! A small fixed set of artifacts, rendered.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use treillage_report::{Error, Evidence, Figure, Summary};

// Helpers outside of test functions are test code too.
#[allow(clippy::unwrap_used)]
fn save(folder: &Path, name: &str, artifact: &Value) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, artifact.to_string()).unwrap();
    path
}

fn artifact(measurement: &str, time: u64, settings: Value, results: Value) -> Value {
    json!({
        "schema": "treillage-bench/1",
        "measurement": measurement,
        "unix_time": time,
        "commit": "0123456789abcdef",
        "modified": false,
        "optimised": true,
        "machine": {
            "processor": "Test <CPU>",
            "features": ["avx2"],
            "cores": 2,
            "architecture": "x86_64",
            "system": "linux",
            "load_average": 0.25,
        },
        "settings": settings,
        "results": results,
    })
}

fn gptq() -> Value {
    let result = |workload: &str, device: Option<&str>, ms: [f64; 4]| {
        let mut result = json!({
            "workload": workload,
            "outputs": 4096,
            "inputs": 1024,
            "format": "int4",
            "ours": { "median": {
                "hessian_ms": ms[0], "cholesky_ms": ms[1], "quantize_ms": ms[2], "total_ms": ms[3],
            } },
        });
        if let Some(device) = device {
            result["device"] = device.into();
        }
        result
    };
    artifact(
        "gptq",
        1_800_000_000,
        json!({}),
        json!([
            result("glm47_moe", None, [10.0, 20.0, 30.0, 60.0]),
            result("glm47_moe", Some("gpu"), [1.0, 10.0, 4.0, 15.0]),
            result("qwen3_coder_next", Some("cpu"), [20.0, 50.0, 60.0, 130.0]),
        ]),
    )
}

fn decode_settings(layers: usize) -> Value {
    json!({
        "preset": "glm47_moe", "layers": layers, "model_layers": 47, "vocabulary": 1000,
        "model_vocabulary": 1000, "format": "trellis", "bits": 3, "head_bits": 6,
        "codebook": "mul1", "prompt_tokens": 8, "decoded_tokens": 4,
    })
}

/// On a GPU: the plain path, and the one that is taken with counters and a profile.
fn decode(seconds: f64) -> Value {
    let mut counters = serde_json::to_value(treillage_telemetry::Counts::default());
    let counters = counters.as_mut().ok();
    let counters = counters.map(|counters| {
        counters["trellis_moe_dispatch"]["gpu_router_calls"] = 188.into();
        counters.clone()
    });
    let kernel = |name: &str, seconds: f64, bytes: f64, operations: f64| {
        json!({
            "kernel": name, "dispatches": 2.0, "seconds": seconds, "bytes": bytes,
            "operations": operations,
        })
    };
    artifact(
        "decode",
        1_800_000_100,
        decode_settings(47),
        json!([
            {
                "device": "A GPU (Vulkan)", "arithmetic": "exact", "path": "baseline",
                "token_seconds_median": 0.020, "decode_tokens_per_second": 50.0,
            },
            {
                "device": "A GPU (Vulkan)", "arithmetic": "int8", "path": "optimized", "bits": "uniform",
                "token_seconds_median": seconds, "decode_tokens_per_second": 1.0 / seconds,
                "copy_bytes_per_second": 1e12, "f32_operations_per_second": 1e13,
                "telemetry": counters,
                "profiles": { "decode": [
                    kernel("near the roof", 60e-6, 50e6, 1e8),
                    kernel("<b>far|from it</b>", 40e-6, 1e6, 1e6),
                    kernel("copies", 5e-6, 1e6, 0.0),
                ] },
            },
        ]),
    )
}

fn suite(steps: Value) -> Value {
    artifact("suite", 1_800_000_200, json!({ "quick": true }), steps)
}

#[allow(clippy::unwrap_used)]
fn rendered(folder: &Path) -> Summary {
    save(folder, "gptq-1.json", &gptq());
    save(folder, "decode-2.json", &decode(0.010));
    let suite = suite(json!([
        { "measurement": "gptq", "device": "cpu", "artifact": "gptq-1.json", "command": "gptq",
          "cut": "MR-GPTQ: int4 only." },
        { "measurement": "decode", "device": "gpu", "preset": "glm47_moe", "artifact": "decode-2.json",
          "command": "decode --device gpu" },
        { "measurement": "decode", "device": "cpu", "unavailable": "5.1 GiB of memory, 2.0 are available" },
        { "measurement": "gptq", "device": "gpu", "preset": "qwen3_coder_next", "unavailable": "out of memory" },
        { "measurement": "decode", "bits": "mixed", "unavailable": "no model of mixed bits was measured" },
    ]));
    let suite = save(folder, "suite-3.json", &suite);
    let against = TempDir::new().unwrap();
    let against = save(against.path(), "before.json", &decode(0.0125));
    let against = Evidence::read(&[against]).unwrap();
    let (history, unreadable) = Evidence::read_folder(folder).unwrap();
    assert_eq!(unreadable, [""; 0]);
    Summary::new(&Evidence::read(&[suite]).unwrap(), Some(&against), &history)
}

#[test]
fn markdown_is_what_it_was() {
    let folder = TempDir::new().unwrap();
    let markdown = rendered(folder.path()).markdown();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.md");
    if std::env::var_os("TREILLAGE_GOLDEN").is_some() {
        fs::write(&golden, &markdown).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert_eq!(markdown, expected, "TREILLAGE_GOLDEN=1 writes it anew");
}

#[test]
fn numbers_follow_from_the_artifacts() {
    let folder = TempDir::new().unwrap();
    let summary = rendered(folder.path());
    let hessian = &summary.gptq.backends[0];
    assert_eq!(hessian.ratio, Figure::Measured(10.0));
    assert_eq!(hessian.delta_ms, Figure::Measured(-9.0));
    let missing = &summary.gptq.backends[7];
    assert_eq!(
        (missing.workload, missing.stage),
        ("qwen3_coder_next", "total")
    );
    assert_eq!(missing.cpu_ms, Figure::Measured(130.0));
    assert_eq!(missing.gpu_ms, Figure::unavailable("out of memory"));
    let row = summary
        .decode
        .iter()
        .find(|row| row.optimized.ms_per_token.value().is_some());
    let row = row.unwrap();
    assert_eq!(row.delta_tokens_per_second, Figure::Measured(50.0));
    let earlier = row.earlier.as_ref().unwrap();
    assert_eq!(earlier.delta_ms, Figure::Measured(10.0 - 12.5));
    assert!((earlier.per_cent.value().unwrap() - 25.0).abs() < 1e-9);
    // Most time is lost where least is spent.
    let kernels = &summary.profiles[0].kernels;
    assert_eq!(kernels[0].kernel.kernel, "<b>far|from it</b>");
    assert!((kernels[0].lost_seconds.value().unwrap() - 39e-6).abs() < 1e-12);
    assert!((kernels[1].lost_seconds.value().unwrap() - 10e-6).abs() < 1e-12);
}

#[test]
fn what_is_missing_is_unavailable_and_says_why() {
    let summary = Summary::new(&Evidence::default(), None, &[]);
    assert!(
        summary
            .gptq
            .backends
            .iter()
            .all(|row| row.cpu_ms.value().is_none())
    );
    assert!(
        summary
            .decode
            .iter()
            .all(|row| row.optimized.tokens_per_second.value().is_none())
    );
    // Three presets on two devices with two spreads of bits.
    assert_eq!(summary.decode.len(), 12);
    for text in [summary.markdown(), summary.html()] {
        assert!(text.contains("unavailable (1)"), "{text}");
        assert!(text.contains("not measured in this run"), "{text}");
        assert!(text.contains("grouping_cpu_fallback_total"), "{text}");
    }
    let json = serde_json::to_value(&summary).unwrap();
    let cell = &json["gptq"]["backends"][0]["cpu_ms"];
    assert_eq!(cell, &json!({ "unavailable": "not measured in this run" }));
}

#[test]
fn without_a_gpu_counters_and_kernels_say_so() {
    let folder = TempDir::new().unwrap();
    let steps = json!([
        { "measurement": "decode", "device": "gpu", "preset": "glm47_moe", "unavailable": "no GPU" },
        { "measurement": "decode", "path": "baseline", "unavailable": "no plain path" },
    ]);
    let suite = save(folder.path(), "suite.json", &suite(steps));
    let summary = Summary::new(&Evidence::read(&[suite]).unwrap(), None, &[]);
    let rows = &summary.counters.rows;
    assert!(
        rows.iter()
            .all(|row| row.values == [json!({ "unavailable": "no GPU" })])
    );
    let reason = summary.no_profile.as_deref();
    assert_eq!(reason, Some("kernels are timed on a GPU: no GPU"));
    assert_eq!(
        summary.decode[2].baseline.ms_per_token,
        Figure::unavailable("no GPU")
    );
    assert_eq!(
        summary.decode[0].baseline.ms_per_token,
        Figure::unavailable("no plain path")
    );
}

#[test]
fn an_earlier_run_of_other_work_is_not_compared_with() {
    let folder = TempDir::new().unwrap();
    let now = save(folder.path(), "now.json", &decode(0.010));
    let mut before = decode(0.020);
    before["settings"] = decode_settings(8);
    let before = save(folder.path(), "before.json", &before);
    let [now, before] = [now, before].map(|path| Evidence::read(&[path]).unwrap());
    let summary = Summary::new(&now, Some(&before), &[]);
    let speeds = summary
        .decode
        .iter()
        .map(|row| &row.earlier.as_ref().unwrap().speed);
    for speed in speeds {
        assert_eq!(speed.ms_per_token.value(), None);
    }
}

#[test]
fn a_page_stands_alone_and_takes_text_for_text() {
    let folder = TempDir::new().unwrap();
    let page = rendered(folder.path()).html();
    assert!(page.contains("Test &lt;CPU&gt;"));
    assert!(page.contains("&lt;b&gt;far|from it&lt;/b&gt;"));
    assert!(!page.contains("<b>far"));
    for outside in ["<script", "<link", "http://", "https://", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(
        page.matches("<svg").count(),
        page.matches("role=\"img\"").count()
    );
    // Two plots of bars, a roofline, and a line for each of the history's measurements.
    assert_eq!(page.matches("<svg").count(), 3 + 5);
    check_nesting(&page);
}

/// Every element that begins ends, in order.
fn check_nesting(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else {
            panic!("no end: {tag}");
        };
        let name = tag.split([' ', '/']).find(|part| !part.is_empty());
        let name = name.unwrap_or_default();
        match tag.starts_with('/') {
            true => assert_eq!(open.pop(), Some(name), "{tag}"),
            false if name == "!DOCTYPE" || name == "meta" => {}
            false => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = TempDir::new().unwrap();
    let read = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let error = Evidence::read(&[path]).expect_err("unreadable");
        assert!(error.to_string().contains(name), "{error}");
        error
    };
    let mut other = gptq();
    other["schema"] = "treillage-bench/9".into();
    let error = read("other.json", &other.to_string());
    assert!(matches!(&error, Error::Schema { found, .. } if found == "treillage-bench/9"));
    let whole = gptq().to_string();
    let error = read("cut.json", &whole[..whole.len() / 2]);
    assert!(matches!(error, Error::Json { .. }), "{error}");
    let error = read("fields.json", r#"{"schema":"treillage-bench/1"}"#);
    assert!(matches!(error, Error::Fields { .. }), "{error}");
    let lost = suite(json!([{ "measurement": "gptq", "artifact": "lost.json" }]));
    let suite = save(folder.path(), "suite.json", &lost);
    let error = Evidence::read(&[suite]).expect_err("a suite without its artifact");
    assert!(error.to_string().contains("lost.json"), "{error}");
    // A history goes on without them.
    save(folder.path(), "gptq.json", &gptq());
    let (history, unreadable) = Evidence::read_folder(folder.path()).unwrap();
    assert_eq!((history.len(), unreadable.len()), (1, 3));
}

#[test]
fn counters_of_other_versions_are_read_under_their_names_of_today() {
    let folder = TempDir::new().unwrap();
    let mut artifact = decode(0.010);
    let group = &mut artifact["results"][1]["telemetry"]["trellis_moe_dispatch"];
    let group = group.as_object_mut().unwrap();
    let calls = group.remove("gpu_router_calls").unwrap();
    group.insert("metal_router_calls".to_owned(), calls);
    let path = save(folder.path(), "decode.json", &artifact);
    let summary = Summary::new(&Evidence::read(&[path]).unwrap(), None, &[]);
    let rows = &summary.counters.rows;
    let row = rows.iter().find(|row| row.counter == "gpu_router_calls");
    assert_eq!(row.unwrap().values, [json!(188)]);
}

#[test]
fn a_result_that_is_of_no_known_form_is_a_caution() {
    let folder = TempDir::new().unwrap();
    let mut artifact = gptq();
    artifact["results"][0]["ours"] = json!("fast");
    let path = save(folder.path(), "odd.json", &artifact);
    let summary = Summary::new(&Evidence::read(&[path]).unwrap(), None, &[]);
    assert!(summary.cautions.iter().any(|c| c.contains("odd.json")));
    assert_eq!(summary.gptq.backends[0].cpu_ms.value(), None);
}

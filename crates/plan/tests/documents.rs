//! The tables of `docs/plan.md` and its translation are what the code computes. `cargo xtask docs` writes them anew, by
//! running this test with `TAOYE_WRITE_DOCS` set.
//!
//! It must not hold a number of its own.
#![allow(clippy::unwrap_used)]

use plan::architecture::origins;
use plan::calibration::Calibration;
use plan::catalog::{Catalog, Figure, Precision};
use plan::published::{self, Set};
use plan::units::{grouped, three};
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- plan: ";
const END: &str = "<!-- end of plan -->";

/// A document, and the heads of its tables in its language.
struct Document {
    path: &'static str,
    runs: &'static str,
    sources: &'static str,
    medians: &'static str,
    lengths: &'static str,
    memory: &'static str,
    chips: &'static str,
    shapes: &'static str,
    makers: &'static str,
    read: [&'static str; 2],
    sets: [&'static str; 3],
}

const DOCUMENTS: [Document; 2] = [
    Document {
        path: "docs/plan.md",
        runs: "| Run | Rows are | Measured | Predicted | Error | Error of a constant share |",
        sources: "| Run | Read | Source | Not told there, and how it was taken |",
        medians: "| Rows | How many | Median error | Of a constant share |",
        lengths: "| Run | Published | Computed | Error | Read | Source |",
        memory: "| What | Published, GB | Computed, GB | Error |",
        chips: "| Chip | bf16 | fp8 | int8 | Memory, GB | GB/s | Links, GB/s | Network, GB/s | W |",
        shapes: "| Model | Read | Source |",
        makers: "| Read | Source of chips' figures |",
        read: ["yes", "no"],
        sets: ["fitted", "held out", "more"],
    },
    Document {
        path: "docs/plan.zh-CN.md",
        runs: "| 训练 | 用途 | 实测 | 预测 | 误差 | 常数利用率的误差 |",
        sources: "| 训练 | 已核对 | 来源 | 来源未说明而取定的 |",
        medians: "| 各行 | 行数 | 误差中位数 | 常数利用率的误差 |",
        lengths: "| 训练 | 公布值 | 计算值 | 误差 | 已核对 | 来源 |",
        memory: "| 内容 | 公布值 GB | 计算值 GB | 误差 |",
        chips: "| 芯片 | bf16 | fp8 | int8 | 内存 GB | GB/s | 互联 GB/s | 网络 GB/s | W |",
        shapes: "| 模型 | 已核对 | 来源 |",
        makers: "| 已核对 | 芯片数据的来源 |",
        read: ["是", "否"],
        sets: ["拟合", "留出", "另加"],
    },
];

impl Document {
    fn set(&self, set: Set) -> &str {
        match set {
            Set::Fitted => self.sets[0],
            Set::HeldOut => self.sets[1],
            Set::More => self.sets[2],
        }
    }

    fn table(&self, name: &str) -> String {
        let calibration = Calibration::shipped();
        match name {
            "runs" => self.runs(&calibration),
            "sources" => self.sources(),
            "medians" => self.medians(&calibration),
            "lengths" => self.lengths(&calibration),
            "memory" => self.memory(),
            "chips" => self.chips(),
            "shapes" => self.shapes(),
            "makers" => self.makers(),
            _ => panic!("{}: there is no table {name}", self.path),
        }
    }

    fn runs(&self, calibration: &Calibration) -> String {
        let mut table = format!("{}\n|---|---|---|---|---|---|\n", self.runs);
        for row in published::compare(calibration) {
            let _ = writeln!(
                table,
                "| {} | {} | {:.1} % | {:.1} % | {:+.1} % | {:+.1} % |",
                row.name,
                self.set(row.set),
                100.0 * row.measured_mfu,
                100.0 * row.predicted_mfu,
                100.0 * row.error,
                100.0 * row.constant_error
            );
        }
        table
    }

    /// Runs of one source and one note stand in one row.
    fn sources(&self) -> String {
        let mut rows: Vec<(String, String, String, bool)> = Vec::new();
        for run in published::runs() {
            match rows.iter_mut().find(|row| row.1 == run.source && row.2 == run.assumed) {
                Some(row) => row.0 = format!("{}, {}", row.0, run.name),
                None => rows.push((run.name, run.source, run.assumed, run.is_reached)),
            }
        }
        let mut table = format!("{}\n|---|---|---|---|\n", self.sources);
        for (name, source, assumed, is_reached) in rows {
            let _ = writeln!(table, "| {name} | {} | {source} | {assumed} |", self.read(is_reached));
        }
        table
    }

    fn read(&self, is_reached: bool) -> &str {
        self.read[usize::from(!is_reached)]
    }

    fn shapes(&self) -> String {
        let mut table = format!("{}\n|---|---|---|\n", self.shapes);
        for origin in origins() {
            let read = self.read(origin.is_reached);
            let _ = writeln!(table, "| `{}` | {read} | {} |", origin.name, origin.source);
        }
        table
    }

    fn makers(&self) -> String {
        let mut table = format!("{}\n|---|---|\n", self.makers);
        for (source, is_reached) in Catalog::shipped_sources() {
            let _ = writeln!(table, "| {} | {source} |", self.read(is_reached));
        }
        table
    }

    fn medians(&self, calibration: &Calibration) -> String {
        let rows = published::compare(calibration);
        let mut table = format!("{}\n|---|---|---|---|\n", self.medians);
        for set in [Set::Fitted, Set::HeldOut, Set::More] {
            let (ours, constant) = published::medians(&rows, set);
            let count = rows.iter().filter(|row| row.set == set).count();
            let _ = writeln!(
                table,
                "| {} | {count} | {:.1} % | {:.1} % |",
                self.set(set),
                100.0 * ours,
                100.0 * constant
            );
        }
        table
    }

    fn lengths(&self, calibration: &Calibration) -> String {
        let mut table = format!("{}\n|---|---|---|---|---|---|\n", self.lengths);
        for length in published::lengths(calibration) {
            let show = |value: f64| if value < 1000.0 { format!("{value:.1}") } else { grouped(value) };
            let _ = writeln!(
                table,
                "| {} | {} {} | {} | {:+.1} % | {} | {} |",
                length.name,
                show(length.published),
                length.unit,
                show(length.computed),
                100.0 * length.error,
                self.read(length.is_reached),
                length.source
            );
        }
        table
    }

    fn memory(&self) -> String {
        let mut table = format!("{}\n|---|---|---|---|\n", self.memory);
        for row in published::memory() {
            let (published, computed) = (row.published_gb, row.computed_gb);
            let _ = writeln!(
                table,
                "| {} | {published:.1} | {computed:.1} | {:+.0} % |",
                row.name,
                100.0 * row.error()
            );
        }
        table
    }

    fn chips(&self) -> String {
        let mut table = format!("{}\n|---|---|---|---|---|---|---|---|---|\n", self.chips);
        let show = |figure: Option<&Figure>| figure.and_then(Figure::value).map_or("–".to_owned(), three);
        for chip in Catalog::shipped().chips() {
            let peak = |kind| show(chip.peak.get(&kind));
            let half = if peak(Precision::Bf16) == "–" {
                format!("{} (fp16)", peak(Precision::Fp16))
            } else {
                peak(Precision::Bf16)
            };
            let half = half.replace("– (fp16)", "–");
            let _ = writeln!(
                table,
                "| `{}` | {half} | {} | {} | {} | {} | {} | {} | {} |",
                chip.name,
                peak(Precision::Fp8),
                peak(Precision::Int8),
                show(Some(&chip.memory)),
                show(Some(&chip.bandwidth)),
                show(Some(&chip.link)),
                show(Some(&chip.network)),
                show(Some(&chip.power))
            );
        }
        table
    }

    /// The document with every table written anew.
    fn render(&self, text: &str) -> String {
        let (mut rest, mut written, mut rendered) = (text, Vec::new(), String::new());
        while let Some((before, after)) = rest.split_once(BEGIN) {
            let (name, after) = after.split_once(" -->\n").expect("a marker ends on its line");
            let (_, after) =
                after.split_once(END).unwrap_or_else(|| panic!("the table {name} lacks `{END}`"));
            let _ = write!(rendered, "{before}{BEGIN}{name} -->\n{}{END}", self.table(name));
            written.push(name);
            rest = after;
        }
        assert_eq!(written.len(), 8, "{}: tables {written:?}", self.path);
        rendered + rest
    }
}

#[test]
fn tables_are_what_the_code_computes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for document in &DOCUMENTS {
        let path = root.join(document.path);
        let text = std::fs::read_to_string(&path).unwrap();
        let rendered = document.render(&text);
        if std::env::var_os("TAOYE_WRITE_DOCS").is_some() {
            std::fs::write(&path, &rendered).unwrap();
        } else {
            assert!(
                rendered == text,
                "{}: its tables are not what the code computes; run `cargo xtask docs`",
                document.path
            );
        }
    }
}

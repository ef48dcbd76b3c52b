//! What this machine is: processor, cores, memory as the control group allows, the process's peak memory.
//! It must not know what will run on it.

use std::path::{Path, PathBuf};

/// A description for manifests and reports.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// The processor's name, as the system gives it.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory that this process may use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture, such as `linux-x86_64`.
    pub platform: String,
}

/// This machine.
pub fn describe() -> Machine {
    Machine {
        cpu: cpu_name(),
        cores: cores(),
        memory_bytes: memory_total_bytes(),
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

/// The processor's name; where the system gives none, the architecture.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    parse_cpu_name(&text).unwrap_or_else(|| format!("unknown {} processor", std::env::consts::ARCH))
}

/// Cores that this process may use: affinity and the control group's quota are respected. At least one.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Memory that this process may use: the machine's, or less where a control group limits it. None where the system
/// does not tell.
pub fn memory_total_bytes() -> Option<u64> {
    let total = meminfo_bytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")?;
    Some(control_groups().iter().map(|group| group.limit_bytes).fold(total, u64::min))
}

/// Memory that is still free for this process, page cache that can be dropped included.
pub fn memory_available_bytes() -> Option<u64> {
    let available = meminfo_bytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")?;
    let left = |group: &ControlGroup| group.limit_bytes.saturating_sub(group.used_bytes);
    Some(control_groups().iter().map(left).fold(available, u64::min))
}

/// The most memory that this process has held at once so far (VmHWM).
pub fn peak_rss_bytes() -> Option<u64> {
    meminfo_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// Memory that this process holds now (VmRSS).
pub fn rss_bytes() -> Option<u64> {
    meminfo_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
}

/// Page faults of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PageFaults {
    /// Those that needed no reading from a disk, such as the first touch of fresh memory.
    pub minor: u64,
    /// Those that did.
    pub major: u64,
}

/// Page faults of all threads of this process so far. None where the system does not tell.
pub fn page_faults() -> Option<PageFaults> {
    parse_page_faults(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

impl PageFaults {
    /// Those since `earlier`.
    pub fn since(self, earlier: PageFaults) -> PageFaults {
        PageFaults {
            minor: self.minor.saturating_sub(earlier.minor),
            major: self.major.saturating_sub(earlier.major),
        }
    }
}

/// Fields 10 and 12 of proc_pid_stat(5); the second, the program's name in parentheses, may hold anything.
fn parse_page_faults(stat: &str) -> Option<PageFaults> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let number = |field: usize| after_name.split_whitespace().nth(field - 3)?.parse().ok();
    Some(PageFaults { minor: number(10)?, major: number(12)? })
}

/// A control group on the way from this process's to the root that limits memory.
struct ControlGroup {
    limit_bytes: u64,
    /// In use, without the page cache that the kernel can drop at once.
    used_bytes: u64,
}

fn control_groups() -> Vec<ControlGroup> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    control_group_folders(&text).iter().filter_map(|folder| read_control_group(folder)).collect()
}

/// The folders of this process's memory groups and of their parents, for version 2 (`0::/path`) and version 1
/// (`9:memory:/path`). In a container the path may lie outside what is mounted, so the root is always among them.
fn control_group_folders(proc_self_cgroup: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let root = match controllers {
            "" => "/sys/fs/cgroup",
            other if other.split(',').any(|name| name == "memory") => "/sys/fs/cgroup/memory",
            _ => continue,
        };
        let mut folder = Some(Path::new(path.trim_start_matches('/')));
        while let Some(current) = folder {
            folders.push(Path::new(root).join(current));
            folder = current.parent();
        }
    }
    folders
}

fn read_control_group(folder: &Path) -> Option<ControlGroup> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit_bytes = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used_bytes = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let statistics = read("memory.stat").unwrap_or_default();
    let droppable_bytes = ["inactive_file ", "total_inactive_file "]
        .iter()
        .filter_map(|name| statistics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()))
        .max()
        .unwrap_or(0);
    Some(ControlGroup { limit_bytes, used_bytes: used_bytes.saturating_sub(droppable_bytes) })
}

/// The value of a `Name:  123 kB` line, in bytes.
fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// x86 and some others give a name; arm64 gives an implementer and a part number (Arm's MIDR_EL1 register).
fn parse_cpu_name(cpuinfo: &str) -> Option<String> {
    let field = |wanted: &str| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == wanted && !value.trim().is_empty()).then(|| value.trim().to_string())
        })
    };
    if let Some(name) = field("model name").or_else(|| field("Model")).or_else(|| field("cpu model")) {
        return Some(name.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let (implementer, part) = (field("CPU implementer")?, field("CPU part")?);
    let known = ARM_PARTS.iter().find(|(maker, number, _)| *maker == implementer && *number == part);
    Some(match known {
        Some((_, _, name)) => (*name).to_string(),
        None => format!("Arm implementer {implementer} part {part}"),
    })
}

/// From Arm's technical reference manuals, register MIDR_EL1.
const ARM_PARTS: [(&str, &str, &str); 9] = [
    ("0x41", "0xd03", "Arm Cortex-A53"),
    ("0x41", "0xd07", "Arm Cortex-A57"),
    ("0x41", "0xd08", "Arm Cortex-A72"),
    ("0x41", "0xd0b", "Arm Cortex-A76"),
    ("0x41", "0xd0c", "Arm Neoverse N1"),
    ("0x41", "0xd40", "Arm Neoverse V1"),
    ("0x41", "0xd49", "Arm Neoverse N2"),
    ("0x41", "0xd4f", "Arm Neoverse V2"),
    ("0xc0", "0xac3", "Ampere One"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn processors_have_names() {
        let cases = [
            (
                "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Intel(R)  Xeon(R) 8481C\n",
                "Intel(R) Xeon(R) 8481C",
            ),
            ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n", "Arm Neoverse V2"),
            ("CPU implementer\t: 0x61\nCPU part\t: 0x022\n", "Arm implementer 0x61 part 0x022"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_cpu_name(text).unwrap(), expected);
        }
        assert_eq!(parse_cpu_name(""), None);
    }

    #[test]
    fn page_faults_are_read_past_any_name() {
        let stat = "7 (a) 1 (b) R 2 3 4 0 -1 4194304 102 5 6 7 0 0";
        assert_eq!(parse_page_faults(stat), Some(PageFaults { minor: 102, major: 6 }));
        assert_eq!(parse_page_faults("7 (a) R 2"), None);
        let (less, more) = (PageFaults { minor: 2, major: 0 }, PageFaults { minor: 9, major: 1 });
        assert_eq!(more.since(less), PageFaults { minor: 7, major: 1 });
    }

    #[test]
    fn control_groups_are_found_up_to_the_root() {
        let expected = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"].map(PathBuf::from);
        assert_eq!(control_group_folders("0::/a/b\n"), expected);
        let first = control_group_folders("3:cpu,cpuacct:/x\n2:memory:/x\n");
        assert_eq!(first, ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory/"].map(PathBuf::from));
    }

    #[test]
    fn a_limit_and_its_droppable_cache_are_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_control_group(folder.path()).is_none());
        for (name, text) in [
            ("memory.max", "1000\n"),
            ("memory.current", "700\n"),
            ("memory.stat", "anon 9\ninactive_file 200\n"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let group = read_control_group(folder.path()).unwrap();
        assert_eq!((group.limit_bytes, group.used_bytes), (1000, 500));
        std::fs::write(folder.path().join("memory.max"), "max\n").unwrap();
        assert!(read_control_group(folder.path()).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_is_plausible() {
        let (total, available) = (memory_total_bytes().unwrap(), memory_available_bytes().unwrap());
        assert!(available <= total && total > 64 << 20, "{available} of {total}");
        let before = peak_rss_bytes().unwrap();
        let block = vec![1u8; 64 << 20];
        assert!(block.iter().step_by(4096).all(|&byte| byte == 1));
        assert!(peak_rss_bytes().unwrap() >= before.max(64 << 20), "the peak never sinks");
        assert!(cores() >= 1 && !cpu_name().is_empty());
    }
}

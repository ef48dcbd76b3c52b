//! Ctrl-C and SIGTERM: the first sets a flag that loops look at, the second ends the process with status 130.
//! It must not know what is being stopped.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The exit status of a process that was interrupted: 128 + SIGINT.
pub const EXIT_STATUS: i32 = 130;

/// Installs the handlers; call it once at the start of the program. Further calls change nothing.
/// The handlers only touch an atomic flag or end the process; no thread is started.
///
/// # Errors
/// [`Error::Io`] where the system refuses a handler.
pub fn install() -> Result<()> {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM] {
        // Registered first, so that it sees the flag as it was before this signal.
        flag::register_conditional_shutdown(signal, EXIT_STATUS, Arc::clone(flag_cell()))
            .and_then(|_| flag::register(signal, Arc::clone(flag_cell())))
            .map_err(|error| Error::io("handle signals of", Path::new("this process"), error))?;
    }
    let _ = INSTALLED.set(());
    Ok(())
}

/// Whether a stop was asked for. Loops look at it between steps, save what is done and return.
pub fn requested() -> bool {
    flag_cell().load(Ordering::Relaxed)
}

/// Sets the flag from within, as a signal would.
pub fn request() {
    flag_cell().store(true, Ordering::Relaxed);
}

fn flag_cell() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, ChildStdout, Command, Stdio};
    use std::time::{Duration, Instant};

    const CHILD: &str = "TAOYE_TEST_INTERRUPT_CHILD";

    /// What the child process of the tests below runs: it announces that it is ready and that the flag is set.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            assert!(!requested());
            return;
        }
        install().unwrap();
        install().unwrap();
        println!("\nready");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut announced = false;
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            if requested() && !announced {
                println!("\nstopping");
                announced = true;
            }
        }
    }

    fn wait_for(output: &mut BufReader<ChildStdout>, wanted: &str) {
        let mut line = String::new();
        while line.trim() != wanted {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended before {wanted}");
        }
    }

    fn send(child: &Child, signal: &str) {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }

    #[test]
    fn the_first_signal_sets_the_flag_and_the_second_ends() {
        for (first, second) in [("-INT", "-INT"), ("-TERM", "-INT"), ("-INT", "-TERM")] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "interrupt::tests::child", "--nocapture"])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            wait_for(&mut output, "ready");
            send(&child, first);
            wait_for(&mut output, "stopping");
            assert!(child.try_wait().unwrap().is_none(), "one signal alone ends nothing");
            send(&child, second);
            assert_eq!(child.wait().unwrap().code(), Some(EXIT_STATUS), "{first} {second}");
        }
    }
}

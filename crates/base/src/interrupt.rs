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

//! `taoye runs watch`: a run's curves as it goes on, drawn anew in the same place; plain lines where the output is no
//! terminal. It only reads, so that ending it leaves the run alone.

use super::plot;
use super::state::{RunState, Standing};
use crate::cli::Watch;
use crate::context::{Context, put};
use anyhow::Result;
use base::progress::format_duration;
use crossterm::event::{Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::{cursor, event, execute, style, terminal};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;
use train::{Kind, StepMetrics};

/// Time between two looks at the run.
const PAUSE: Duration = Duration::from_millis(500);
/// Lines beside the curves.
const LINES_AROUND: usize = 9;

/// Shows a run until it ends (plain lines) or until q (a terminal).
///
/// # Errors
/// When there is no such run, or the terminal cannot be used.
pub fn run(context: &Context, flags: &Watch) -> Result<()> {
    base::interrupt::install()?;
    let folder = flags.runs.join(&flags.name);
    let state = RunState::read(&folder)?;
    match std::io::stdout().is_terminal() && !context.json {
        true => on_terminal(&folder, state),
        false => as_lines(context, &folder, state),
    }
}

fn as_lines(context: &Context, folder: &Path, mut state: RunState) -> Result<()> {
    let mut shown = None;
    loop {
        let now = (state.stage.clone(), state.step, state.standing == Standing::Running);
        if shown.as_ref() != Some(&now) {
            context.print(&headline(&state), &super::json(&state));
            shown = Some(now);
        }
        if state.standing != Standing::Running || base::interrupt::requested() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
        state = RunState::read(folder)?;
    }
}

/// Holds the terminal in raw mode on its second screen, and gives it back.
struct Screen;

impl Screen {
    fn take() -> Result<Screen> {
        terminal::enable_raw_mode()?;
        let screen = Screen;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = execute!(std::io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn on_terminal(folder: &Path, mut state: RunState) -> Result<()> {
    let screen = Screen::take()?;
    loop {
        draw(&state)?;
        if wait_for_quit()? || base::interrupt::requested() {
            break;
        }
        // A journal that is just being written anew is read at the next look.
        if let Ok(newer) = RunState::read(folder) {
            state = newer;
        }
    }
    drop(screen);
    put(&headline(&state));
    Ok(())
}

/// Waits for the next look; whether q, Escape or Ctrl-C was pressed meanwhile.
fn wait_for_quit() -> Result<bool> {
    if !event::poll(PAUSE)? {
        return Ok(false);
    }
    let Input::Key(key) = event::read()? else { return Ok(false) };
    let is_control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    let is_quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || is_control_c;
    Ok(is_quit && key.kind != KeyEventKind::Release)
}

fn draw(state: &RunState) -> Result<()> {
    let (columns, rows) = terminal::size()?;
    let mut out = std::io::stdout().lock();
    execute!(out, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
    for line in lines(state, usize::from(columns), usize::from(rows)) {
        execute!(
            out,
            style::Print(line),
            terminal::Clear(terminal::ClearType::UntilNewLine),
            cursor::MoveToNextLine(1)
        )?;
    }
    execute!(out, terminal::Clear(terminal::ClearType::FromCursorDown), terminal::EndSynchronizedUpdate)?;
    Ok(out.flush()?)
}

/// The screen's lines, none longer than it is wide, and one less than it is high.
fn lines(state: &RunState, columns: usize, rows: usize) -> Vec<String> {
    let steps = state.steps_done();
    let places = (1.0, state.steps.unwrap_or(state.step).max(2) as f64);
    let over = |value: fn(&StepMetrics) -> f64| -> Vec<(f64, f64)> {
        steps.iter().map(|(step, metrics)| (*step as f64, value(metrics))).collect()
    };
    let room = rows.saturating_sub(LINES_AROUND);
    let (loss_rows, norm_rows) = (room.saturating_sub(room / 3).max(3), (room / 3).max(2));
    let mut lines = vec![headline(state), figures(state)];
    lines.push("loss".to_owned());
    lines.extend(plot::curve(&over(|step| step.loss), places, columns, loss_rows));
    lines.push("gradient norm".to_owned());
    lines.extend(plot::curve(&over(|step| step.gradient_norm), places, columns, norm_rows));
    let last = format!("{:.0}", places.1);
    let gap = columns.saturating_sub(12 + last.len());
    lines.push(format!("{:>10}1{}{last}", "", " ".repeat(gap)));
    let notices = state.events.iter().rev().find_map(|event| match &event.kind {
        Kind::Notice { message } => Some(message.clone()),
        _ => None,
    });
    lines.push(state.failure.clone().or(notices).unwrap_or_default());
    lines.push("q ends the showing; the run goes on by itself".to_owned());
    lines.truncate(rows.saturating_sub(1));
    lines.into_iter().map(|line| clipped(&line, columns)).collect()
}

/// Where the run is.
fn headline(state: &RunState) -> String {
    let stage = state.stage.as_deref().unwrap_or("before training");
    let mut text = format!("{} · {stage} · {}", state.name, state.standing.name());
    if let Some(steps) = state.steps {
        let percent = 100.0 * state.step as f64 / steps.max(1) as f64;
        text.push_str(&format!(" · step {} of {steps} ({percent:.0} %)", state.step));
    }
    if let Some(loss) = state.loss {
        text.push_str(&format!(" · loss {loss:.4}"));
    }
    text
}

/// How fast it goes and how well.
fn figures(state: &RunState) -> String {
    let mut parts = Vec::new();
    if let Some((_, last)) = state.steps_done().last() {
        parts.push(format!("learning rate {:.2e}", last.learning_rate));
    }
    parts.extend(state.tokens_per_s.map(|speed| format!("{speed:.0} tokens/s")));
    parts.extend(state.best_evaluation.map(|loss| format!("best evaluation {loss:.4}")));
    if let Some(seconds) = state.seconds_left().filter(|_| state.standing == Standing::Running) {
        parts.push(format!("{} left", format_duration(Duration::from_secs_f64(seconds))));
    }
    parts.join(" · ")
}

/// As much of a line as fits.
fn clipped(line: &str, columns: usize) -> String {
    let mut taken = 0;
    let fits = line.chars().take_while(|character| {
        taken += plot::width(character.encode_utf8(&mut [0; 4]));
        taken <= columns
    });
    fits.map(|character| if character.is_control() { ' ' } else { character }).collect()
}

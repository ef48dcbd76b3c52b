//! Renders a chat template, to be set beside what Jinja makes of it: `render TEMPLATE < VARIABLES`, lines of JSON, one object a
//! line. Each line out is a text, or an object with the error.

use std::io::BufRead;

use serde_json::json;
use token::{ChatTemplate, Settings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: render TEMPLATE < VARIABLES")?;
    let chat_template = std::fs::read_to_string(path)?;
    let template = ChatTemplate::new(&Settings {
        bos_token: "<BOS>".into(),
        eos_token: "<EOS>".into(),
        chat_template,
        ..Settings::default()
    })?;
    for line in std::io::stdin().lock().lines() {
        let variables = serde_json::from_str(&line?)?;
        match template.render_variables(&variables) {
            Ok(text) => println!("{}", json!(text)),
            Err(error) => println!("{}", json!({ "error": error.to_string() })),
        }
    }
    Ok(())
}

//! A socket on which tests arm break points; not in a program that was built without them.
//!
//! One line each way: `arm NAME` or `clear` (which also heals a partition), answered by `ok` or a line that says what is wrong.

use std::io;

use rsm::{BreakPoint, Handle};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use wire::{Connection, Endpoint, Listener};

/// Listens from now on.
pub(crate) async fn start(endpoint: &Endpoint, handle: Handle) -> io::Result<()> {
    let listener = Listener::bind(endpoint).await?;
    drop(tokio::spawn(async move {
        while let Ok(connection) = listener.accept().await {
            drop(tokio::spawn(serve(connection, handle.clone())));
        }
    }));
    Ok(())
}

async fn serve(connection: Connection, handle: Handle) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        let answer = match obey(line.trim(), &handle) {
            Ok(()) => "ok".to_owned(),
            Err(problem) => problem,
        };
        connection.write_all(format!("{answer}\n").as_bytes()).await?;
        connection.flush().await?;
        line.clear();
    }
    Ok(())
}

fn obey(line: &str, handle: &Handle) -> Result<(), String> {
    match line.split_once(' ') {
        Some(("arm", name)) => handle.set_break_point(name.parse::<BreakPoint>()?),
        None if line == "clear" => handle.clear_break_points(),
        _ => return Err(format!("'{line}' is no command: write 'arm NAME' or 'clear'")),
    }
    Ok(())
}

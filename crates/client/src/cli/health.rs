//! `tidings health`: whether a server takes requests, for those who start it again if it does not.

use std::process::ExitCode;
use std::time::Duration;

use super::HealthArgs;
use super::terminal::{failed, misused, runtime};
use crate::client::Client;
use crate::error::{Lost, Refused, TryError};
use crate::http::{HttpConnection, request_line};

/// Whoever asks has a deadline of its own, mostly of half a minute.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Asks once: exit code 0 if the server is ready, 1 if it is not or does not answer in time.
#[expect(
    clippy::needless_pass_by_value,
    reason = "as the other commands, which consume their options"
)]
pub fn health(args: HealthArgs) -> ExitCode {
    let client = match Client::new(&args.url, &args.tls.files()) {
        Ok(client) => client.with_silence(ANSWER_MAX),
        Err(error) => return misused(&error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let asked = client.in_time(ask(&client));
    match runtime.block_on(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn ask(client: &Client) -> Result<(), TryError> {
    let mut connection = HttpConnection::new(client.connect().await?);
    let request = request_line("GET", client.url(), "/readyz") + "connection: close\r\n\r\n";
    connection.write(request.as_bytes()).await?;
    let head = connection.read_head().await?;
    if head.status == 200 {
        return Ok(());
    }
    let retry_after = head.retry_after();
    let body = connection.read_body(&head).await.unwrap_or_default();
    let refused = Refused::from_answer(head.status, retry_after, &body);
    Err(Lost::Refused(refused).into())
}

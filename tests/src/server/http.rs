//! The HTTP server of a backend.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::{Content, Health};

type Body = BoxBody<Bytes, Infallible>;

/// What the requests of one server share.
pub(super) struct State {
    pub(super) name: Rc<str>,
    pub(super) health: RefCell<Health>,
}

/// The client goes away without an answer.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to close the connection")
    }
}

impl std::error::Error for Hangup {}

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, state: Rc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::task::spawn_local(async move {
            let service = hyper::service::service_fn(move |request| answer(request, state.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // The client sees what went wrong and counts it.
            drop(connection.await);
        });
    }
}

async fn answer(request: Request<Incoming>, state: Rc<State>) -> Result<Response<Body>, Hangup> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => Ok(text(&state, StatusCode::OK, state.name.to_string())),
        (&Method::GET | &Method::HEAD, "/health") => health(&state).await,
        (&Method::POST, "/control") => Ok(control(request, &state).await),
        (&Method::GET, path) if path.starts_with("/bytes/") => Ok(bytes(&request, &state)),
        _ => Ok(text(&state, StatusCode::NOT_FOUND, "not here\n".to_owned())),
    }
}

async fn health(state: &State) -> Result<Response<Body>, Hangup> {
    let health = state.health.borrow().clone();
    if health.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(health.delay_ms)).await;
    }
    if health.close {
        return Err(Hangup);
    }
    let status = StatusCode::from_u16(health.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = text(state, status, health.body);
    let weight = health.weight.map(HeaderValue::try_from);
    if let Some(Ok(weight)) = weight {
        answer.headers_mut().insert("x-fairlead-weight", weight);
    }
    Ok(answer)
}

async fn control(request: Request<Incoming>, state: &State) -> Response<Body> {
    let told = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes());
    match told
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Health>(&bytes).ok())
    {
        Some(health) => {
            state.health.replace(health);
            text(state, StatusCode::OK, "done\n".to_owned())
        }
        None => text(
            state,
            StatusCode::BAD_REQUEST,
            "not a health answer\n".to_owned(),
        ),
    }
}

fn bytes(request: &Request<Incoming>, state: &State) -> Response<Body> {
    let length = request
        .uri()
        .path()
        .trim_start_matches("/bytes/")
        .parse::<usize>();
    let query = request.uri().query().unwrap_or("seed=0");
    let seed = query
        .strip_prefix("seed=")
        .and_then(|s| s.parse::<u64>().ok());
    let (Ok(length), Some(seed)) = (length, seed) else {
        return text(
            state,
            StatusCode::BAD_REQUEST,
            "want /bytes/N?seed=S\n".to_owned(),
        );
    };
    // One thread does everything: between two chunks it answers the health checks that wait.
    let stream = futures_util::stream::iter(Content::new(length, seed)).then(async |chunk| {
        tokio::task::yield_now().await;
        Ok(Frame::data(Bytes::from(chunk)))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream)));
    let headers = response.headers_mut();
    headers.insert("content-length", length.into());
    name_header(state, headers);
    response
}

fn text(state: &State, status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    name_header(state, response.headers_mut());
    response
}

fn name_header(state: &State, headers: &mut hyper::HeaderMap) {
    if let Ok(name) = state.name.parse() {
        headers.insert("x-backend", name);
    }
}

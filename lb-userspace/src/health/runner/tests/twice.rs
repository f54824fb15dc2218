//! A check that is made for a suspicion asks a second time before silence counts.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;

use super::*;
use crate::model::HttpCheck;

/// What becomes of a connection to a server.
#[derive(Clone, Copy)]
enum Turn {
    /// It is held, and nothing is said: the answer is lost.
    Lost,
    /// The answer that is expected.
    Answered,
    /// An answer that is not, at once.
    Wrong,
    /// The answer, once there is another connection.
    Late,
}

/// A server that serves its connections so, and all later ones as the last; and how many there were.
async fn serving(turns: &'static [Turn]) -> (Target, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let check = HttpCheck {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        expect_status: vec![(200, 200)],
        expect_body: None,
    };
    let target = Target {
        check: Check::Http(check),
        ..target(1, listener.local_addr().unwrap().port(), 10_000, 4000)
    };
    let count: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&count);
    let serve = async move {
        let (mut held, mut late) = (Vec::new(), Vec::new());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let number = counted.fetch_add(1, Ordering::SeqCst);
            for stream in &mut late {
                answer(stream, 200).await;
            }
            match turns.get(number).or(turns.last()).unwrap() {
                Turn::Lost => {}
                Turn::Answered => answer(&mut stream, 200).await,
                Turn::Wrong => answer(&mut stream, 503).await,
                Turn::Late => {
                    late.push(stream);
                    continue;
                }
            }
            held.push(stream);
        }
    };
    (target, count, tokio::spawn(serve))
}

async fn answer(stream: &mut TcpStream, status: u16) {
    let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// The verdict, and how many connections it took.
async fn asked(turns: &'static [Turn]) -> (ProbeVerdict, usize) {
    let (target, count, server) = serving(turns).await;
    let verdict = ask(&target).await;
    server.abort();
    (verdict, count.load(Ordering::SeqCst))
}

async fn ask(target: &Target) -> ProbeVerdict {
    twice(target, &Tools::default(), &mut Hearing::default()).await
}

#[tokio::test]
async fn who_answers_the_second_attempt_alone_is_good() {
    use Turn::{Answered, Lost};
    assert_eq!(asked(&[Lost, Answered]).await, (ProbeVerdict::Good, 2));
}

#[tokio::test]
async fn who_answers_the_first_attempt_alone_and_late_is_good() {
    use Turn::{Late, Lost};
    assert_eq!(asked(&[Late, Lost]).await, (ProbeVerdict::Good, 2));
    // The second one is told at once that it is not well, and does not decide alone either.
    let (verdict, count) = asked(&[Turn::Lost, Turn::Wrong]).await;
    assert!(matches!(verdict, ProbeVerdict::Bad(_)), "{verdict:?}");
    assert_eq!(count, 2);
    assert_eq!(asked(&[Late, Turn::Wrong]).await, (ProbeVerdict::Good, 2));
}

#[tokio::test]
async fn who_answers_neither_attempt_is_bad_at_the_timeout() {
    let (target, count, server) = serving(&[Turn::Lost]).await;
    let began = now_ns();
    let verdict = ask(&target).await;
    let took = Duration::from_nanos(now_ns() - began);
    assert!(
        matches!(&verdict, ProbeVerdict::Bad(words) if words.contains("timed out")),
        "{verdict:?}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // Neither the first one nor the second is cut short.
    assert!(took >= target.timeout, "{took:?}");
    server.abort();
}

#[tokio::test]
async fn who_refuses_or_says_something_wrong_is_not_asked_again() {
    let (verdict, count) = asked(&[Turn::Wrong, Turn::Answered]).await;
    assert!(
        matches!(&verdict, ProbeVerdict::Bad(words) if words.contains("503")),
        "{verdict:?}"
    );
    assert_eq!(count, 1);
    // Nobody is at this port any more.
    let (target, count, server) = serving(&[Turn::Answered]).await;
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    let verdict = ask(&target).await;
    assert!(
        matches!(&verdict, ProbeVerdict::Bad(words) if words.contains("refused")),
        "{verdict:?}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_answers_at_once_is_asked_once() {
    assert_eq!(asked(&[Turn::Answered]).await, (ProbeVerdict::Good, 1));
}

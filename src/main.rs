fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("demo") => pontoon::cli::demo::run(),
        _ => {
            eprintln!("usage: pontoon demo");
            std::process::ExitCode::from(2)
        }
    }
}

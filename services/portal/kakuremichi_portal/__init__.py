"""The portal: HTTP API, enrolment endpoint, sign-in and status page. It writes by request to the registry only."""

"""What tests share: servers, stand-ins and observers."""
